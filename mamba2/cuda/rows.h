#pragma once

#include <cuda_runtime_api.h>

#include "mamba2/cuda/activation.h"
#include "mamba2/cuda/batch.h"

namespace mamba2::cuda {

/// out = value * act(gate), or act(gate) alone where value's data is null.  Rows of one width, f32 but for value.
struct Activate {
  std::int64_t rows = 0;
  int width = 0;
  ConstRows value, gate;
  DType value_dtype = DType::f32;  // f32 | bf16
  Activation activation = Activation::silu;
  Rows out;  // may be gate or value
};

void activate(const Activate& op, cudaStream_t stream);

/// out[i] = x[rows[i]], f32; NaN where a row lies outside [0, source_rows).
struct GatherRows {
  std::int64_t count = 0;
  std::int64_t source_rows = 0;
  int width = 0;
  const std::int32_t* rows = nullptr;  // (count)
  ConstRows x;
  Rows out;
};

void gather_rows(const GatherRows& op, cudaStream_t stream);

/// out[i] = logsumexp(logits[i]) - logits[i, labels[i]]; 0 where the label is -100, NaN where it is no class.
struct CrossEntropy {
  std::int64_t rows = 0;
  int classes = 0;
  ConstRows logits;                      // (rows, classes) f32
  const std::int32_t* labels = nullptr;  // (rows)
  float* out = nullptr;
  std::int64_t out_stride = 0;
};

void cross_entropy(const CrossEntropy& op, cudaStream_t stream);

/// f32 rows rounded to f16 or bf16.  For f16, whose range is small, a row that reaches past 2^14 is divided by a power
/// of two first; row_scale receives what to multiply its products by.
struct RoundRows {
  std::int64_t rows = 0;
  int width = 0;
  ConstRows x;
  DType out_dtype = DType::bf16;
  Rows out;
  float* row_scale = nullptr;  // (rows), f16 only
};

void round_rows(const RoundRows& op, cudaStream_t stream);

/// out = scale[row] * out + bias + add: what a product of rows from round_rows still needs.
struct FinishRows {
  std::int64_t rows = 0;
  int width = 0;
  const float* row_scale = nullptr;  // (rows)
  const float* bias = nullptr;       // (width); null: none
  ConstRows products, add;           // add data null: none
  Rows out;                          // may be add or products
};

void finish_rows(const FinishRows& op, cudaStream_t stream);

}  // namespace mamba2::cuda
