#pragma once

#include <cuda_runtime_api.h>

#include "mamba2/cuda/batch.h"

namespace mamba2::cuda {

/// out = x / rms(x) * weight over each row, x first added to the residual stream where there is one.
/// All pointers are device memory; any width up to 49 152.
struct RmsNorm {
  std::int64_t rows = 0;
  int width = 0;
  float eps = 1e-5F;
  ConstRows x;
  DType dtype = DType::f32;  // of x and out: f32 | f16 | bf16
  Rows residual;             // read, replaced by residual + x, and normalised; data null: x itself is normalised
  DType residual_dtype = DType::f32;  // f32 or dtype
  const float* weight = nullptr;      // (width)
  Rows out;                           // data null: none
  Rows rounded;                       // bf16, the same where x is f32; data null: none
};

void rms_norm(const RmsNorm& norm, cudaStream_t stream);

/// The mixer's norm over groups of columns: norm(y * silu(z)) * weight, or norm(y) * weight * silu(z) where the norm
/// comes first.
struct GatedRmsNorm {
  std::int64_t rows = 0;
  int width = 0;
  int groups = 1;  // divides width
  bool norm_before_gate = false;
  float eps = 1e-5F;
  // f32, f16 or bf16, all alike; or y bf16, z f32 and out either of them
  DType y_dtype = DType::f32, z_dtype = DType::f32, out_dtype = DType::f32;
  ConstRows y, z;                 // z data null: no gate
  const float* weight = nullptr;  // (width)
  Rows out;                       // may be y where their dtypes are equal
};

void gated_rms_norm(const GatedRmsNorm& norm, cudaStream_t stream);

}  // namespace mamba2::cuda
