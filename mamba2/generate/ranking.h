#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace mamba2 {

/// Which of two equal scores comes first.
enum class Ties : std::uint8_t { lower_index_first, higher_index_first };

/// Indices of the `count` largest scores (all where there are fewer), largest first.  NaN counts as larger than any
/// number and the two zeros are equal, as in PyTorch.  For a small count one pass that keeps the best few.
std::vector<std::size_t> largest_indices(std::span<const float> scores, std::size_t count, Ties ties);

/// The count-th largest score; count is 1 at least and at most their number.
float nth_largest(std::span<const float> scores, std::size_t count);

/// The largest score, where NaN is passed over; -inf where there is none.
float highest(std::span<const float> scores);

/// Whether a score is NaN.
bool any_nan(std::span<const float> scores);

}  // namespace mamba2
