#pragma once

#include <span>
#include <vector>

namespace mamba2 {

/// exp(scores) over their sum, float32 with the sum in double; NaN throughout where the largest is infinite or NaN.
std::vector<float> softmax(std::span<const float> scores);

/// scores minus the logarithm of the sum of their exponentials, in place; all -inf stay so.
void log_softmax(std::span<float> scores);

}  // namespace mamba2
