#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/generate/generation_config.h"
#include "mamba2/model/modeling_mamba2.h"

namespace mamba2 {

/// One result; which fields are set is the task's matter.
struct PipelineOutput {
  std::string generated_text;  ///< text-generation: the prompt and what follows it
  std::string label;           ///< text-classification: the label with the highest score
  double score = 0;            ///< text-classification: its probability; a regression's value
};

/// A model and its tokenizer behind one call, as transformers' pipeline().  Belongs to one thread at a time.
class Pipeline {
 public:
  virtual ~Pipeline() = default;
  /// text-generation: num_return_sequences results; fields of config that are not set come from the model's folder.
  /// text-classification: one result, config has no effect.  Throws Error.
  virtual std::vector<PipelineOutput> operator()(std::string_view text, const GenerationConfig& config = {}) = 0;
};

/// task: "text-generation" or "text-classification" (also "sentiment-analysis"); path: a folder, a file or a Hub name.
/// Throws Error for another task, and what loading throws.
std::unique_ptr<Pipeline> pipeline(std::string_view task, const std::string& path, const LoadOptions& options = {});

/// A classifier's scores for one sequence: softmax for a single label, sigmoid for several, the values of a regression,
/// as transformers' text-classification pipeline.
std::vector<double> classification_scores(ProblemType problem, std::span<const double> logits);

/// id2label's name of a class, else LABEL_N.
std::string label_name(const Mamba2Config& config, std::int64_t index);

}  // namespace mamba2
