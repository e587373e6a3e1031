#pragma once

#include <cuda_runtime_api.h>

#include "mamba2/cuda/batch.h"
#include "mamba2/ops/token_rule.h"

namespace mamba2::cuda {

/// out[i] = the token that rules[i] chooses from logits[i], or a TokenRefusal.  All pointers are device memory.
struct ChooseToken {
  std::int64_t rows = 0;
  int vocab_size = 0;
  Rows logits;                            // (rows, vocab_size) f32; written to
  const TokenRule* rules = nullptr;       // (rows)
  const std::int32_t* history = nullptr;  // (rows, history_length), ids outside the vocabulary are passed over
  std::int64_t history_stride = 0;
  int history_length = 0;
  std::int32_t* steps = nullptr;      // (rows), one more afterwards
  std::int32_t* positions = nullptr;  // (moved), one more afterwards
  int moved = 0;
  std::int32_t* out = nullptr;  // (rows)
};

/// Vocabularies that the kernel takes: a bit for each token has room in shared memory.
constexpr int choose_token_largest_vocabulary = 1 << 20;

void choose_token(const ChooseToken& op, cudaStream_t stream);

}  // namespace mamba2::cuda
