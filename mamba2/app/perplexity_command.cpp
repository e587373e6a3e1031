#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "mamba2/app/commands.h"
#include "mamba2/app/interrupt.h"
#include "mamba2/app/options.h"
#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/progress.h"
#include "mamba2/model/loss.h"

namespace mamba2::app {
namespace {

/// Memory for logits of one step; larger vocabularies take fewer tokens a step.
constexpr std::int64_t logits_bytes = 64 << 20;

struct PerplexityCommand {
  ModelOptions options;
  std::string file;
  std::int64_t context = 1024, characters = 0;

  void run();
};

/// The first n characters of UTF-8 text; bytes that start no character count with the one before.
std::string_view first_characters(std::string_view text, std::int64_t n) {
  std::size_t end = 0;
  for (; end < text.size(); ++end) {
    const bool starts = (static_cast<unsigned char>(text[end]) & 0xC0U) != 0x80U;
    if (starts && n-- == 0) break;
  }
  return text.substr(0, end);
}

/// Windows that are fed side by side, a slot each; a step feeds the next tokens of every one.
class Windows {
 public:
  Windows(Mamba2ForCausalLM& model, std::span<const std::int32_t> ids, std::int64_t context)
      : model_(model),
        ids_(ids),
        context_(context),
        step_(std::max<std::int64_t>(16, logits_bytes / 4 / model.config().vocab_size)),
        side_by_side_(std::clamp<std::int64_t>(step_ / context, 1, 64)),
        cache_(model.make_cache(side_by_side_)) {}

  std::int64_t side_by_side() const { return side_by_side_; }

  /// Sum of the negative log-likelihoods of windows [first, first + count).
  double score(std::int64_t first, std::int64_t count) {
    cache_.reset();
    double sum = 0;
    for (std::int64_t begin = 0; begin + 1 < context_; begin += step_) {
      // the window's last token predicts nothing that is counted, so it needs no feeding
      const std::int64_t fed = std::min(step_, context_ - 1 - begin);
      std::vector<SequenceInput> inputs;
      for (std::int64_t w = 0; w < count; ++w)
        inputs.push_back(
            {.input_ids = window(first + w).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(fed)),
             .slot = w,
             .logits_to_keep = all_positions});
      const ForwardOutput output = model_.forward(inputs, cache_);
      for (std::int64_t w = 0; w < count; ++w)
        for (std::int64_t i = 0; i < fed; ++i)
          sum += negative_log_likelihood(output.logits.view()[w * fed + i],
                                         window(first + w)[static_cast<std::size_t>(begin + i + 1)]);
      check_interrupt();
    }
    return sum;
  }

 private:
  std::span<const std::int32_t> window(std::int64_t index) const {
    return ids_.subspan(static_cast<std::size_t>(index * context_), static_cast<std::size_t>(context_));
  }

  Mamba2ForCausalLM& model_;
  std::span<const std::int32_t> ids_;
  std::int64_t context_, step_, side_by_side_;
  Mamba2Cache cache_;
};

void PerplexityCommand::run() {
  const MappedFile mapped(file);
  Mamba2ForCausalLM model = Mamba2ForCausalLM::from_pretrained(options.model_path(), options.load);
  const auto tokenizer = load_tokenizer(options, model.model().path());
  const std::string_view text = characters > 0 ? first_characters(mapped.text(), characters) : mapped.text();
  const std::vector<std::int32_t> ids = tokenizer->encode(text, SpecialTokens::omit);
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const std::int64_t count = tokens / context;
  require(count > 0, "{}: holds {} tokens, expected at least one window of {} (--context)", file, tokens, context);

  catch_interrupts();
  const auto start = std::chrono::steady_clock::now();
  Windows windows(model, ids, context);
  ProgressBar bar("perplexity", static_cast<std::uint64_t>(count), ProgressUnit::items);
  double sum = 0;
  for (std::int64_t first = 0; first < count; first += windows.side_by_side()) {
    sum += windows.score(first, std::min(windows.side_by_side(), count - first));
    bar.update(static_cast<std::uint64_t>(std::min(first + windows.side_by_side(), count)));
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::int64_t predicted = count * (context - 1);
  const double mean = sum / static_cast<double>(predicted);
  if (options.json) {
    print_json({{"tokens", tokens},
                {"windows", count},
                {"predicted_tokens", predicted},
                {"mean_nll", mean},
                {"perplexity", std::exp(mean)},
                {"tokens_per_s", static_cast<double>(predicted) / seconds}});
    return;
  }
  fmt::print("perplexity {:.4f} (mean negative log-likelihood {:.6f}) over {} tokens in {} windows of {}\n",
             std::exp(mean), mean, predicted, count, context);
  fmt::print(stderr, "{:.1f} tokens/s\n", static_cast<double>(predicted) / seconds);
}

}  // namespace

void add_perplexity(CLI::App& app) {
  auto state = std::make_shared<PerplexityCommand>();
  CLI::App* command = app.add_subcommand("perplexity", "How well the model predicts a text");
  command->option_defaults()->group("Input");
  command->add_option("--file", state->file, "The text")->required();
  command->add_option("--context", state->context, "Tokens of a window")
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 31))
      ->capture_default_str();
  command->add_option("--characters", state->characters, "Read only so many characters")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  add_model_options(*command, state->options);
  command->callback([state] { state->run(); });
}

}  // namespace mamba2::app
