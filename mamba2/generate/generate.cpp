#include "mamba2/generate/generate.h"

#include <algorithm>
#include <map>

#include "mamba2/base/error.h"
#include "mamba2/base/log.h"
#include "mamba2/generate/complete_config.h"
#include "mamba2/generate/search.h"

namespace mamba2 {

namespace {

using Ids = std::vector<std::int32_t>;

/// Settings that this strategy does not look at, which the caller may not expect.
void warn_of_unused(const GenerationConfig& asked) {
  const bool sampling = asked.do_sample.value_or(false);
  const bool beams = asked.num_beams.value_or(1) > 1;
  const auto warn = [](bool unused, const char* field, const char* needs) {
    if (unused) log_warning("'{}' has no effect without {}", field, needs);
  };
  warn(!sampling && asked.temperature.value_or(1) != 1, "temperature", "do_sample");
  warn(!sampling && asked.top_k.value_or(50) != 50, "top_k", "do_sample");
  warn(!sampling && asked.top_p.value_or(1) != 1, "top_p", "do_sample");
  warn(!sampling && asked.top_h.has_value(), "top_h", "do_sample");
  warn(!sampling && asked.min_p.has_value(), "min_p", "do_sample");
  warn(!sampling && asked.typical_p.value_or(1) != 1, "typical_p", "do_sample");
  warn(!sampling && asked.epsilon_cutoff.value_or(0) != 0, "epsilon_cutoff", "do_sample");
  warn(!sampling && asked.eta_cutoff.value_or(0) != 0, "eta_cutoff", "do_sample");
  warn(!beams && asked.length_penalty.value_or(1) != 1, "length_penalty", "num_beams > 1");
  warn(!beams && asked.early_stopping.value_or(EarlyStopping::no) != EarlyStopping::no, "early_stopping",
       "num_beams > 1");
  if (asked.max_new_tokens && asked.max_length) log_warning("'max_new_tokens' goes before 'max_length'");
  if (asked.min_new_tokens && asked.min_length) log_warning("'min_new_tokens' goes before 'min_length'");
}

void warn_of_unreachable(const GenerationConfig& config, std::int64_t prompt_length, std::int64_t max_length) {
  if (*config.min_length > max_length) {
    log_warning("'min_length' is {}, but the text ends at {} tokens", *config.min_length, max_length);
  }
  if (config.min_new_tokens.value_or(0) > max_length - prompt_length) {
    log_warning("'min_new_tokens' is {}, but the text ends after {}", *config.min_new_tokens,
                max_length - prompt_length);
  }
}

/// Prompts ready for a search.  More sequences of one prompt than there are rows become several prompts.
std::vector<Prompt> checked_prompts(std::span<const Ids> prompts, const GenerationConfig& config,
                                    std::int64_t vocab_size, std::int64_t max_rows) {
  const std::int64_t returned = *config.num_return_sequences;
  const std::int64_t most_copies = *config.num_beams > 1 ? returned : std::min(returned, max_rows);
  std::vector<Prompt> checked;
  std::map<Ids, std::int64_t> seen;  // how many sequences each prompt has by now
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const Ids ids = complete_prompt(prompts[i], fmt::format("prompt {}", i), config, vocab_size);
    const std::int64_t max_length = max_length_for(config, std::ssize(ids));
    warn_of_unreachable(config, std::ssize(ids), max_length);
    std::int64_t& first_copy = seen[ids];
    for (std::int64_t copy = 0; copy < returned; copy += most_copies) {
      const std::size_t result = i * static_cast<std::size_t>(returned) + static_cast<std::size_t>(copy);
      checked.push_back({ids, max_length, result, std::min(most_copies, returned - copy), first_copy + copy});
    }
    first_copy += returned;
  }
  return checked;
}

}  // namespace

GenerateOutput generate(Decoder& decoder, std::span<const Ids> prompts, const GenerationConfig& asked,
                        const GenerateOptions& options) {
  require(options.max_rows > 0, "max_rows is {}, expected at least 1", options.max_rows);
  asked.validate();
  warn_of_unused(asked);
  const GenerationConfig config = complete_config(asked);
  constexpr std::int64_t most_continuations = std::int64_t{1} << 31;  // of a prompt's beams, which are ranked together
  require(*config.num_beams <= most_continuations / std::max<std::int64_t>(decoder.vocab_size(), 1),
          "'num_beams' is {}, which with a vocabulary of {} tokens is too many", *config.num_beams,
          decoder.vocab_size());
  const std::vector<LogitsProcessor> processors = make_logits_processors(config, decoder.vocab_size());
  const Stopping stopping(config, options.make_text_decoder, options.cancel);
  const std::vector<Prompt> checked = checked_prompts(prompts, config, decoder.vocab_size(), options.max_rows);

  GenerateOutput output;
  output.seed = *config.seed;
  const auto returned = static_cast<std::size_t>(*config.num_return_sequences);
  for (const Prompt& prompt : checked) {
    for (std::int64_t copy = 0; copy < prompt.copies; ++copy) {
      output.results.push_back(
          {output.results.size() / returned, prompt.ids, {}, FinishReason::cancelled, std::nullopt});
    }
  }

  const auto start = std::chrono::steady_clock::now();
  const Search search{decoder,        config,           processors,       stopping, options.make_text_decoder,
                      options.cancel, options.streamer, options.max_rows, checked,  output};
  if (checked.empty()) return output;
  if (*config.num_beams > 1) {
    beam_search(search);
  } else {
    sample_search(search);
  }
  const std::chrono::duration<double> total = std::chrono::steady_clock::now() - start;
  output.timings.decode_s = total.count() - output.timings.prefill_s;
  return output;
}

}  // namespace mamba2
