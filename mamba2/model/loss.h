#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mamba2/model/config.h"
#include "mamba2/tensor/tensor.h"

/// Losses of host logits, computed in double.  Labels of -100 are not counted; a mean over nothing is NaN, as in torch.
namespace mamba2 {

inline constexpr std::int32_t ignored_label = -100;

/// logsumexp(logits) - logits[label] of one position; logits (classes) f32 or f64.
double negative_log_likelihood(const Tensor& logits, std::int32_t label);

/// Mean loss of predicting labels[t + 1] from logits[t] within each sequence, as transformers' language-modelling loss.
/// logits (sequences * sequence_length, vocab_size); labels (sequences * sequence_length).
double causal_lm_loss(const Tensor& logits, std::span<const std::int32_t> labels, std::int64_t sequence_length);

/// A classifier's loss: mean squared error, cross entropy, or binary cross entropy with logits.
/// logits (sequences, num_labels); labels (sequences, 1) with class ids for a single label, else (sequences,
/// num_labels).
double classification_loss(ProblemType problem, std::span<const std::vector<double>> logits,
                           std::span<const std::vector<double>> labels);

}  // namespace mamba2
