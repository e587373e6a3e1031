#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "mamba2/app/commands.h"
#include "mamba2/app/options.h"
#include "mamba2/app/token_input.h"
#include "mamba2/pipeline/pipeline.h"

namespace mamba2::app {
namespace {

struct ClassifyCommand {
  ModelOptions options;
  std::vector<std::string> texts;
  std::string input_file;

  void run();
};

void ClassifyCommand::run() {
  Mamba2ForSequenceClassification model =
      Mamba2ForSequenceClassification::from_pretrained(options.model_path(), options.load);
  const Mamba2Config& config = model.config();
  std::vector<std::vector<std::int32_t>> sequences;
  if (!input_file.empty()) {
    const TokenInput input = read_token_input(input_file);
    TokenInput unpadded;
    for (std::size_t i = 0; i < input.input_ids.size(); ++i) {
      if (!input.attention_mask.empty()) {
        unpadded.input_ids.push_back(input.tokens(i));
        continue;
      }
      const std::vector<std::int32_t>& row = input.input_ids[i];
      const std::size_t length = tokens_before_padding(row, config.pad_token_id);
      unpadded.input_ids.emplace_back(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(length));
    }
    check_token_ids(unpadded, input_file, config.vocab_size);
    sequences = std::move(unpadded.input_ids);
  } else {
    const auto tokenizer = load_tokenizer(options, model.model().path());
    if (texts.empty()) texts.push_back(read_stdin());
    for (const std::string& text : texts) sequences.push_back(tokenizer->encode(text, SpecialTokens::include));
  }
  const ClassificationOutput output = model.forward(sequences);
  const ProblemType problem = model.problem_type(true);
  for (std::size_t i = 0; i < output.logits.size(); ++i) {
    const std::vector<double> scores = classification_scores(problem, output.logits[i]);
    const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
    const std::string label = label_name(config, best);
    if (!options.json) {
      fmt::print("{}\t{:.6f}{}\n", label, scores[static_cast<std::size_t>(best)], texts.empty() ? "" : "\t" + texts[i]);
      continue;
    }
    Json by_label = Json::object();
    for (std::size_t j = 0; j < scores.size(); ++j)
      by_label[label_name(config, static_cast<std::int64_t>(j))] = scores[j];
    print_json({{"text", texts.empty() ? Json(nullptr) : Json(texts[i])},
                {"label", label},
                {"score", scores[static_cast<std::size_t>(best)]},
                {"logits", output.logits[i]},
                {"scores", by_label}});
  }
}

}  // namespace

void add_classify(CLI::App& app) {
  auto state = std::make_shared<ClassifyCommand>();
  CLI::App* command = app.add_subcommand("classify", "Label texts with Mamba2ForSequenceClassification");
  CLI::Option* texts = command->add_option("text", state->texts, "Texts; none: standard input");
  take_texts(*texts);
  command->option_defaults()->group("Input");
  command
      ->add_option("--input", state->input_file,
                   "A JSON file: {\"input_ids\": [[...]]}, padded right with pad_token_id or by \"attention_mask\"")
      ->excludes(texts);
  add_model_options(*command, state->options);
  command->callback([state] { state->run(); });
}

}  // namespace mamba2::app
