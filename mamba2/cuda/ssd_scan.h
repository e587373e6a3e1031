#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "mamba2/cuda/batch.h"

namespace mamba2::cuda {

/// Sizes of a state space dual scan; num_heads is a multiple of n_groups.
struct SsdShape {
  int num_heads = 0;
  int head_dim = 0;
  int n_groups = 0;
  int state_size = 0;
};

/// State space dual scan, forward, over ragged sequences.  Dao & Gu 2024, section 6 (block decomposition).
///
///   S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T,   y_t = S_t C_t + D x_t,   out_t = y_t or y_t silu(z_t),
///   A = -exp(A_log)
///
/// All pointers are device memory.  Rows are tokens; their strides count elements.
struct SsdScan {
  SsdShape shape;
  DType dtype = DType::f32;   // of x, B, C, z and out: f32 | f16 | bf16
  ConstRows x;                // (tokens, num_heads * head_dim)
  ConstRows B, C;             // (tokens, n_groups * state_size)
  ConstRows z;                // like x; data null: no gate
  const float* dt = nullptr;  // (tokens, num_heads), after bias, softplus and limit where dt_bias is null
  std::int64_t dt_stride = 0;
  // (num_heads); null: dt is what it is, else min(max(softplus(dt + bias), dt_min), dt_max): tensor core path alone
  const float* dt_bias = nullptr;
  float dt_min = 0.0F, dt_max = 0.0F;
  const float* A_log = nullptr;  // (num_heads)
  const float* D = nullptr;      // (num_heads) or (num_heads, head_dim); null: none
  int D_head_stride = 1;         // elements from head to head: 1 or head_dim
  int D_channel_stride = 0;      // elements from channel to channel: 0 or 1
  Batch batch;
  void* ssm_state = nullptr;  // (slots, num_heads, head_dim, state_size), read and replaced
  DType state_dtype = DType::f32;
  Rows out;  // like x
};

/// How the tensor core path cuts a batch.  A segment is the run of tokens that one block scans with the state in
/// registers; where a sequence has several, a first pass computes the states that enter them, in runs of part_tokens.
struct SsdTiles {
  int heads_per_block = 0;
  int segment_tokens = 0;  // multiple of part_tokens
  int part_tokens = 0;     // multiple of the chunk
  int segments_bound = 0;  // no batch of these totals has more segments
  int parts_bound = 0;     // nor more parts, entering states included
};

/// Tokens of a chunk on the tensor core path.
constexpr int ssd_chunk_tokens = 64;

/// Segments just long enough to give every multiprocessor its block.
SsdTiles ssd_tiles(const SsdShape& shape, const Batch& batch, int multiprocessors);

/// True where the tensor core path computes this scan: f16 or bf16, head_dim 64, state_size 64 or 128, aligned rows, on
/// a device of compute capability 9.0.  Elsewhere the general kernel does.
bool ssd_scan_is_tuned(const SsdScan& scan, int compute_capability);

/// Bytes of device memory that ssd_scan needs beside its operands, on the current device.
std::size_t ssd_scan_workspace(const SsdScan& scan);

/// Enqueues the scan.  Throws Error where a launch is refused.
void ssd_scan(const SsdScan& scan, void* workspace, cudaStream_t stream);

/// The two paths by themselves, for tests and benchmarks.
void ssd_scan_general(const SsdScan& scan, cudaStream_t stream);
std::size_t ssd_scan_hopper_workspace(const SsdScan& scan, int multiprocessors);
void ssd_scan_hopper(const SsdScan& scan, void* workspace, int multiprocessors, cudaStream_t stream);

}  // namespace mamba2::cuda
