#pragma once

#include <cuda_runtime_api.h>

#include "mamba2/cuda/batch.h"

namespace mamba2::cuda {

/// out[i] = row first + i, or ids[i], of a packed weight, rounded to out's dtype; NaN where an id lies outside it.  In
/// f32 each element is what dequantize() gives, bit for bit.
struct UnpackRows {
  std::int64_t count = 0;
  int columns = 0;
  const void* weight = nullptr;  // what pack() made of (weight_rows, columns)
  DType weight_dtype = DType::q8_0;
  std::int64_t weight_rows = 0;
  std::int64_t first = 0;
  const std::int32_t* ids = nullptr;  // (count); null: from `first` on
  Rows out = {};
  DType out_dtype = DType::f32;  // or bf16
};

void unpack_rows(const UnpackRows& op, cudaStream_t stream);

}  // namespace mamba2::cuda
