#include "mamba2/model/loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

constexpr double nothing_counted = std::numeric_limits<double>::quiet_NaN();

template <class T>
double log_sum_exp(std::span<const T> values) {
  const double largest = static_cast<double>(*std::max_element(values.begin(), values.end()));
  if (!std::isfinite(largest)) return largest;
  double sum = 0;
  for (const T value : values) sum += std::exp(static_cast<double>(value) - largest);
  return largest + std::log(sum);
}

double mean_squared_error(std::span<const std::vector<double>> logits, std::span<const std::vector<double>> labels) {
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t i = 0; i < logits.size(); ++i)
    for (std::size_t j = 0; j < logits[i].size(); ++j, ++count) sum += std::pow(logits[i][j] - labels[i][j], 2);
  return count == 0 ? nothing_counted : sum / static_cast<double>(count);
}

double cross_entropy(std::span<const std::vector<double>> logits, std::span<const std::vector<double>> labels) {
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double label = labels[i][0];
    if (label == ignored_label) continue;
    require(label >= 0 && label < static_cast<double>(logits[i].size()) && std::trunc(label) == label,
            "labels: {} is no class id below num_labels = {}", label, logits[i].size());
    sum += log_sum_exp(std::span<const double>(logits[i])) - logits[i][static_cast<std::size_t>(label)];
    ++count;
  }
  return count == 0 ? nothing_counted : sum / static_cast<double>(count);
}

double binary_cross_entropy(std::span<const std::vector<double>> logits, std::span<const std::vector<double>> labels) {
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t i = 0; i < logits.size(); ++i)
    for (std::size_t j = 0; j < logits[i].size(); ++j, ++count) {
      const double x = logits[i][j];
      sum += std::max(x, 0.0) - x * labels[i][j] + std::log1p(std::exp(-std::abs(x)));
    }
  return count == 0 ? nothing_counted : sum / static_cast<double>(count);
}

}  // namespace

double negative_log_likelihood(const Tensor& logits, std::int32_t label) {
  require(0 <= label && label < logits.size(0), "label {} is outside the {} classes", label, logits.size(0));
  const auto count = static_cast<std::size_t>(logits.size(0));
  if (logits.dtype == DType::f64)
    return log_sum_exp(std::span<const double>(logits.as<double>(), count)) - logits.as<double>()[label];
  require(logits.dtype == DType::f32, "a loss was asked for of {} logits, expected f32 or f64", name(logits.dtype));
  return log_sum_exp(std::span<const float>(logits.as<float>(), count)) -
         static_cast<double>(logits.as<float>()[label]);
}

double causal_lm_loss(const Tensor& logits, std::span<const std::int32_t> labels, std::int64_t sequence_length) {
  const auto tokens = static_cast<std::int64_t>(labels.size());
  require(logits.rank() == 2 && logits.size(0) == tokens, "logits are {}, expected one row for each of {} labels",
          to_string(logits.shape), tokens);
  require(sequence_length > 0 && tokens % sequence_length == 0, "{} labels are no whole number of sequences of {}",
          tokens, sequence_length);
  double sum = 0;
  std::int64_t count = 0;
  for (std::int64_t t = 0; t + 1 < tokens; ++t) {
    const std::int32_t label = labels[static_cast<std::size_t>(t + 1)];
    if ((t + 1) % sequence_length == 0 || label == ignored_label) continue;
    sum += negative_log_likelihood(logits[t], label);
    ++count;
  }
  return count == 0 ? nothing_counted : sum / static_cast<double>(count);
}

double classification_loss(ProblemType problem, std::span<const std::vector<double>> logits,
                           std::span<const std::vector<double>> labels) {
  require(logits.size() == labels.size(), "{} sequences have {} labels", logits.size(), labels.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const std::size_t expected = problem == ProblemType::single_label_classification ? 1 : logits[i].size();
    require(labels[i].size() == expected, "labels: sequence {} has {}, expected {}", i, labels[i].size(), expected);
  }
  switch (problem) {
    case ProblemType::regression: return mean_squared_error(logits, labels);
    case ProblemType::single_label_classification: return cross_entropy(logits, labels);
    case ProblemType::multi_label_classification: return binary_cross_entropy(logits, labels);
  }
  return nothing_counted;
}

}  // namespace mamba2
