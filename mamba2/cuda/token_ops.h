#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "mamba2/cuda/batch.h"

namespace mamba2::cuda {

/// out[t] = table[ids[t]], rounded to out's dtype; NaN where an id lies outside the table.
struct Embedding {
  std::int64_t tokens = 0;
  int width = 0;
  std::int64_t vocab_size = 0;
  const std::int32_t* ids = nullptr;  // (tokens)
  ConstRows table;                    // (vocab_size, width)
  DType dtype = DType::f32;
  Rows out;  // (tokens, width)
  DType out_dtype = DType::f32;
};

void embedding(const Embedding& op, cudaStream_t stream);

/// dt[t, h] = clamp(softplus(dt_raw[t, h] + bias[h]), dt_min, dt_max), in f32.
struct SoftplusDt {
  std::int64_t tokens = 0;
  int num_heads = 0;
  ConstRows dt_raw;  // (tokens, num_heads)
  DType dtype = DType::f32;
  const float* bias = nullptr;  // (num_heads)
  float dt_min = 0.0F, dt_max = 0.0F;
  float* dt = nullptr;  // (tokens, num_heads)
  std::int64_t dt_stride = 0;
};

void softplus_dt(const SoftplusDt& op, cudaStream_t stream);

}  // namespace mamba2::cuda
