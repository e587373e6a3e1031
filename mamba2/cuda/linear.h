#pragma once

#include <cuda_runtime_api.h>

#include "mamba2/cuda/batch.h"

namespace mamba2::cuda {

/// The norm of the rows before a product: x / rms(x) * weight.  The rows themselves are written too.
struct InputNorm {
  const float* weight = nullptr;  // (inputs); null: no norm
  float eps = 1e-5F;
  Rows normed;  // (rows, inputs); must not overlap x
};

/// out = add + x W^T + bias in f32: x, add and out are f32, W is f32, bf16 or f16 and widened exactly, or packed.
/// All pointers are device memory; any sizes, strides and alignments.
struct LinearRows {
  std::int64_t rows = 0;  // of x and out
  int inputs = 0;         // columns of x and W
  int outputs = 0;        // rows of W
  ConstRows x;
  DType x_dtype = DType::f32;  // bf16: linear_streamed and linear_packed alone
  ConstRows weight;
  DType weight_dtype = DType::f32;  // quantised: weight.data is what pack() made, linear_packed alone
  const float* bias = nullptr;      // (outputs); null: none
  ConstRows add;                    // data null: none; may be out
  Rows out;
  InputNorm norm;  // few rows only
};

/// Elements of a weight below which a library call costs more than our own kernel, which also rounds nothing.
constexpr std::int64_t least_library_elements = std::int64_t{1} << 16;

/// The product of `count` of the rows from `first` on.
LinearRows some_rows(const LinearRows& op, std::int64_t first, std::int64_t count);

/// Rows up to which few_rows reads the weight once.
constexpr int few_rows_limit = 8;

/// For the products of decode, bound by reading W.  A row's bits do not depend on the other rows.  On Hopper it starts
/// reading W before the kernel ahead of it is done.
void linear_few_rows(const LinearRows& op, cudaStream_t stream);

/// Rows of bf16 up to which linear_streamed reads the weight once.
constexpr int streamed_rows_limit = 32;

/// The same on Hopper's tensor cores for W in bf16 and x in f32 (few rows) or bf16, at the rate at which W is read.
/// x in f32 loses nothing: products are exact.
bool linear_streamed_takes(const LinearRows& op);
void linear_streamed(const LinearRows& op, cudaStream_t stream);

/// The same for packed W on compute capability 8.0 and later: any number of rows in f32, which lose nothing, or in
/// bf16, aligned to 8 bytes.  W is read once for each 8 rows of f32 or 24 of bf16, or for fewer where they are long.
void linear_packed(const LinearRows& op, cudaStream_t stream);
/// Rows up to which it costs no more than unpacking W for the library.
constexpr int packed_rows_limit = 16;
/// Whether a row of f32 of so many inputs has room on the current device.
bool linear_packed_holds(DType dtype, std::int64_t inputs);

/// For any number of rows, by f32 multiplications: what no library takes, and small matrices.
void linear_tiled(const LinearRows& op, cudaStream_t stream);

}  // namespace mamba2::cuda
