// Greedy search and sampling: every sequence goes its own way, so they are requests to an engine.

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "mamba2/generate/engine.h"
#include "mamba2/generate/search.h"

namespace mamba2 {

namespace {

class SampleSearch {
 public:
  explicit SampleSearch(const Search& search)
      : search_(search),
        streamed_(search.output.results.size()),
        engine_(search.decoder,
                {.slots = slots_for(search), .most_waiting = std::max<std::int64_t>(1, std::ssize(search.prompts))}) {}

  void run() {
    for (const Prompt& prompt : search_.prompts) engine_.submit(request_of(prompt));
    while (engine_.step() && !error_) {
    }
    if (error_) std::rethrow_exception(error_);
    const EngineTotals& totals = engine_.totals();
    search_.output.timings.prefill_tokens = totals.prefill_tokens;
    search_.output.timings.decode_tokens = totals.decode_tokens;
    search_.output.timings.prefill_s = totals.prefill_s;
  }

 private:
  static std::int64_t slots_for(const Search& search) {
    std::int64_t sequences = 0;
    for (const Prompt& prompt : search.prompts) sequences += prompt.copies;
    return std::min(search.max_rows, sequences);
  }

  Request request_of(const Prompt& prompt) {
    Request request{.prompt_ids = prompt.ids,
                    .config = search_.config,
                    .make_text_decoder = search_.make_text_decoder,
                    .cancel = search_.cancel,
                    .first_copy = prompt.first_copy,
                    .from = 0,
                    .on_snapshot = {},
                    .on_token = {},
                    .on_end = {}};
    request.config.num_return_sequences = prompt.copies;
    if (search_.streamer != nullptr)
      request.on_token = [this, &prompt](std::int64_t copy, std::int32_t id) { stream(prompt, copy, id); };
    request.on_end = [this, &prompt](const SequenceEnd& end) { finish(prompt, end); };
    return request;
  }

  static std::size_t result_of(const Prompt& prompt, std::int64_t copy) {
    return prompt.result + static_cast<std::size_t>(copy);
  }

  void stream(const Prompt& prompt, std::int64_t copy, std::int32_t id) {
    const std::size_t result = result_of(prompt, copy);
    if (!streamed_[result]) search_.streamer->prompt(result, prompt.ids);
    streamed_[result] = true;
    search_.streamer->put(result, {&id, 1});
  }

  void finish(const Prompt& prompt, const SequenceEnd& end) {
    if (!error_) error_ = end.error;
    if (error_) return;
    const std::size_t place = result_of(prompt, end.sequence);
    GenerationResult& result = search_.output.results[place];
    result.new_ids.assign(end.new_ids.begin(), end.new_ids.end());
    result.ids.insert(result.ids.end(), end.new_ids.begin(), end.new_ids.end());
    result.finish_reason = end.reason;
    if (!streamed_[place]) return;
    try {
      search_.streamer->end(place);
    } catch (...) {
      error_ = std::current_exception();
    }
  }

  const Search& search_;
  std::exception_ptr error_;    // of the first sequence that failed
  std::vector<bool> streamed_;  // results that the streamer knows
  Engine engine_;               // last: as it goes it ends what is left
};

}  // namespace

void sample_search(const Search& search) {
  SampleSearch(search).run();
}

}  // namespace mamba2
