#pragma once

#include <cuda_runtime_api.h>

#include "mamba2/cuda/batch.h"

/// What one rank computes of ops that several share.  All pointers are device memory, all but AddRows's products f32.
namespace mamba2::cuda {

/// out = add + products.
struct AddRows {
  std::int64_t rows = 0;
  int width = 0;
  ConstRows products;
  DType dtype = DType::f32;  // of products: f32 | bf16
  ConstRows add;
  Rows out;  // may be add
};

void add_rows(const AddRows& op, cudaStream_t stream);

/// Columns of a row that are channels [first_channel, first_channel + width) of groups of group_size.
struct GroupedRows {
  std::int64_t rows = 0;
  int width = 0;
  std::int64_t group_size = 0, first_channel = 0;
  int groups = 0;
  ConstRows x;
  float* square_sums = nullptr;  // (rows, groups)
};

/// square_sums of this rank's columns; 0 for a group that has none of them.
void sum_squares(const GroupedRows& op, cudaStream_t stream);

/// out = x / sqrt(square_sum of its group / group_size + eps) * weight.
struct ScaleRows {
  GroupedRows grouped;
  const float* weight = nullptr;  // (width)
  float eps = 1e-5F;
  Rows out;  // may be x
};

void scale_rows(const ScaleRows& op, cudaStream_t stream);

}  // namespace mamba2::cuda
