#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "mamba2/cuda/batch.h"

namespace mamba2::cuda {

/// out = x W^T (+ bias) for a few rows of x: the products of decode, bound by reading W once.
/// All pointers are device memory.
struct Gemv {
  int rows = 0;                 // of x and out, 1 to gemv_max_rows
  int inputs = 0;               // columns of x and W, a multiple of 8
  int outputs = 0;              // rows of W
  DType dtype = DType::bf16;    // of x and W: f16 | bf16
  ConstRows x;                  // 16-byte aligned, stride a multiple of 8
  ConstRows weight;             // likewise
  const float* bias = nullptr;  // (outputs); null: none
  Rows out;
  DType out_dtype = DType::bf16;  // dtype or f32
};

constexpr int gemv_max_rows = 16;

/// Groups of 8 outputs that one block computes: as many as leave every multiprocessor several blocks.
int gemv_groups_per_block(int outputs, int multiprocessors);

void gemv(const Gemv& product, cudaStream_t stream);

}  // namespace mamba2::cuda
