#include "mamba2/pipeline/pipeline.h"

#include <algorithm>
#include <cmath>

#include "mamba2/base/error.h"
#include "mamba2/generate/generate.h"
#include "mamba2/pipeline/auto.h"

namespace mamba2 {
namespace {

class TextGeneration : public Pipeline {
 public:
  TextGeneration(const std::string& path, const LoadOptions& options)
      : model_(AutoModelForCausalLM::from_pretrained(path, options)),
        tokenizer_(AutoTokenizer::from_pretrained(model_.model().path())),
        defaults_(generation_config_of(model_)) {}

  std::vector<PipelineOutput> operator()(std::string_view text, const GenerationConfig& config) override {
    GenerationConfig filled = config;
    filled.fill_from(defaults_);
    const std::vector<std::int32_t> prompt = tokenizer_->encode(text, SpecialTokens::include);
    GenerateOptions options;
    options.make_text_decoder = text_decoders(*tokenizer_, SpecialTokens::include);
    std::vector<PipelineOutput> outputs;
    for (const GenerationResult& result : generate(model_, {&prompt, 1}, filled, options).results)
      outputs.push_back(
          {.generated_text = std::string(text) + continuation(*tokenizer_, result.ids, prompt.size()), .label = {}});
    return outputs;
  }

 private:
  Mamba2ForCausalLM model_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  GenerationConfig defaults_;
};

class TextClassification : public Pipeline {
 public:
  TextClassification(const std::string& path, const LoadOptions& options)
      : model_(AutoModelForSequenceClassification::from_pretrained(path, options)),
        tokenizer_(AutoTokenizer::from_pretrained(model_.model().path())) {}

  std::vector<PipelineOutput> operator()(std::string_view text, const GenerationConfig&) override {
    const std::vector<std::int32_t> ids = tokenizer_->encode(text, SpecialTokens::include);
    const ClassificationOutput output = model_.forward({&ids, 1});
    const ProblemType problem = model_.problem_type(true);
    const std::vector<double> scores = classification_scores(problem, output.logits.front());
    const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
    return {{.generated_text = {},
             .label = label_name(model_.config(), best),
             .score = scores[static_cast<std::size_t>(best)]}};
  }

 private:
  Mamba2ForSequenceClassification model_;
  std::unique_ptr<const Tokenizer> tokenizer_;
};

std::vector<double> softmax(std::span<const double> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  std::vector<double> out;
  double sum = 0;
  for (const double x : logits) sum += out.emplace_back(std::exp(x - largest));
  for (double& x : out) x /= sum;
  return out;
}

}  // namespace

std::unique_ptr<Pipeline> pipeline(std::string_view task, const std::string& path, const LoadOptions& options) {
  if (task == "text-generation") return std::make_unique<TextGeneration>(path, options);
  if (task == "text-classification" || task == "sentiment-analysis")
    return std::make_unique<TextClassification>(path, options);
  fail("task is '{}', expected text-generation or text-classification", printable(task));
}

std::vector<double> classification_scores(ProblemType problem, std::span<const double> logits) {
  if (problem == ProblemType::single_label_classification) return softmax(logits);
  std::vector<double> out(logits.begin(), logits.end());
  if (problem == ProblemType::multi_label_classification)
    for (double& x : out) x = 1 / (1 + std::exp(-x));
  return out;
}

std::string label_name(const Mamba2Config& config, std::int64_t index) {
  const auto found = config.id2label.find(index);
  return found == config.id2label.end() ? fmt::format("LABEL_{}", index) : found->second;
}

}  // namespace mamba2
