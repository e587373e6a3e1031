#pragma once

#include <cuda_runtime_api.h>

#include "mamba2/cuda/batch.h"

namespace mamba2::cuda {

/// f32 heads of tokens: (tokens, heads, head_dim), strides in elements.
struct Heads {
  float* data = nullptr;
  std::int64_t token_stride = 0, head_stride = 0;
};

/// Rotary position embedding, in place; see mamba2::Rope.
struct Rope {
  Heads x;
  int heads = 0;
  Batch batch;
  const std::int32_t* positions = nullptr;  // (tokens)
  int rotary_dim = 0;
  double theta = 0;
  double position_divisor = 1;  // linear scaling
  bool dynamic = false;         // NTK-aware scaling past max_position_embeddings
  double factor = 1;
  std::int64_t max_position_embeddings = 0;
};

void rope(const Rope& op, cudaStream_t stream);

/// Causal attention over keys and values that are appended first; see mamba2::Attention.  A token whose position lies
/// outside the cache is not appended and its output is NaN.
struct Attention {
  Heads q, k, v, out;
  int heads = 0, kv_heads = 0, head_dim = 0;  // head_dim up to attention_max_head_dim
  float scale = 1;
  Batch batch;
  const std::int32_t* positions = nullptr;       // (tokens)
  float *k_cache = nullptr, *v_cache = nullptr;  // (slots, capacity, kv_heads, head_dim)
  std::int64_t capacity = 0;
};

constexpr int attention_max_head_dim = 1024;

/// First of both: keys and values into the cache.
void append(const Attention& op, cudaStream_t stream);
/// Over what the cache holds then, in f32.
void attend(const Attention& op, cudaStream_t stream);

/// The same on tensor cores for prompts, with q, k, v and the shares of keys rounded to bf16.  Values are finite: one
/// that is not reaches rows up to a tile before it.
bool attend_tiles_takes(const Attention& op, int compute_capability);
void attend_tiles(const Attention& op, cudaStream_t stream);

}  // namespace mamba2::cuda
