#pragma once

#include <cstdint>

#include "mamba2/tensor/dtype.h"

namespace mamba2::cuda {

/// Sequences end to end.  Both arrays lie on the device, so that a recorded graph serves every later step; the host
/// knows only their sizes.
struct Batch {
  const std::int32_t* sequence_start = nullptr;  // (sequences + 1), ascending, [0] = 0, [sequences] = tokens
  const std::int32_t* slots = nullptr;           // (sequences); null: sequence i has slot i
  int sequences = 0;
  std::int64_t tokens = 0;
};

/// Rows of equal length on the device: row i starts at data + i * stride, counted in elements.
struct Rows {
  void* data = nullptr;
  std::int64_t stride = 0;
};
struct ConstRows {
  const void* data = nullptr;
  std::int64_t stride = 0;
};

}  // namespace mamba2::cuda
