#pragma once

#include <vector_types.h>

#include <algorithm>
#include <cstdint>

namespace mamba2::cuda {

/// A grid of `columns` blocks for each of `rows`.  Rows go on in z past the 65 535 that y may have, so the last layer
/// may have some too many: kernels find theirs by grid_row() and leave where it is not one.
inline dim3 grid_of_rows(std::int64_t columns, std::int64_t rows) {
  constexpr std::int64_t most = 65535;
  const std::int64_t layers = std::max<std::int64_t>(1, (rows + most - 1) / most);
  const std::int64_t each = (rows + layers - 1) / layers;
  return {static_cast<unsigned>(columns), static_cast<unsigned>(each), static_cast<unsigned>(layers)};
}

}  // namespace mamba2::cuda
