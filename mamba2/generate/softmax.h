#pragma once

#include <cstddef>
#include <limits>
#include <span>
#include <vector>

namespace mamba2 {

/// The score of a token that can't be next.
constexpr float ruled_out = -std::numeric_limits<float>::infinity();

/// Scores that are looked at together: a cut distribution is mostly tokens that are ruled out.
constexpr std::size_t scores_together = 32;

/// exp(scores) over their sum, float32 with the sum in double; NaN throughout where the largest is infinite or NaN.
std::vector<float> softmax(std::span<const float> scores);

/// scores minus the logarithm of the sum of their exponentials, in place; all -inf stay so.
void log_softmax(std::span<float> scores);

}  // namespace mamba2
