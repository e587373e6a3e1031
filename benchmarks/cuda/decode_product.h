#pragma once

#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/packed_weight.h"
#include "tests/cuda/support.h"

namespace mamba2::cuda {

/// A product of decode: few rows of x in f32, more in bf16.
inline LinearRows decode_product(int rows, int inputs, int outputs, const DeviceArray& x, const DeviceArray& weight,
                                 DType weight_dtype, const DeviceArray& out) {
  LinearRows op;
  op.rows = rows;
  op.inputs = inputs;
  op.outputs = outputs;
  op.x = {x.data(), inputs};
  op.x_dtype = rows > few_rows_limit ? DType::bf16 : DType::f32;
  op.weight = {weight.data(), inputs};
  op.weight_dtype = weight_dtype;
  op.out = {out.data(), outputs};
  return op;
}

/// By the kernel that the backend takes for it.
inline void multiply(const LinearRows& op, cudaStream_t stream) {
  if (is_packed(op.weight_dtype)) return linear_packed(op, stream);
  if (linear_streamed_takes(op)) return linear_streamed(op, stream);
  linear_few_rows(op, stream);
}

}  // namespace mamba2::cuda
