#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace mamba2 {

/// The random numbers of one generated sequence: each a function of seed, sequence, step and draw alone (Philox), so
/// that neither threads nor the rest of a batch can change a text.
class SequenceRandom {
 public:
  /// The copy-th sequence (from 0) of those generated from this prompt.
  SequenceRandom(std::uint64_t seed, std::span<const std::int32_t> prompt, std::int64_t copy);

  /// In [0, 1), 53 random bits; step counts the sequence's tokens, draw the numbers used for one token.
  double uniform(std::int64_t step, std::int64_t draw) const;
  std::uint64_t seed() const { return seed_; }
  std::uint64_t stream() const { return stream_; }

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
};

/// The first of the largest scores.  Throws Error where one is NaN.
std::int32_t argmax(std::span<const float> scores);

/// One token with the probabilities softmax(scores), by the cumulative sum in the order of ids; uniform in [0, 1).
/// Throws Error where a score is NaN or infinite, or every token is ruled out.
std::int32_t sample(std::span<const float> scores, double uniform);

/// Up to `count` different indices with the probabilities softmax(scores), drawn one after the other.  Where fewer have
/// a probability above 0 in float32, the best of the others follow.  uniform(k) in [0, 1) serves the k-th draw.  Throws
/// Error as sample().
std::vector<std::size_t> sample_without_replacement(std::span<const float> scores, std::size_t count,
                                                    const std::function<double(std::int64_t)>& uniform);

}  // namespace mamba2
