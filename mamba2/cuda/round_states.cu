// States between a scan in f32 and their place in bf16.  Once a prompt, so a thread takes what one Philox block serves:
// eight elements, two of each sixteen.
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/grid.cuh"
#include "mamba2/cuda/philox.cuh"
#include "mamba2/cuda/round_states.h"
#include "mamba2/ops/ops.h"

namespace mamba2::cuda {
namespace {

constexpr int block_threads = 256;
constexpr int together = 64;  // elements whose bits eight Philox blocks hold
constexpr int blocks_of_together = 8;

/// Elements of one state, and how many runs of `together` a row has.
__device__ __forceinline__ std::int64_t elements_of(const SsdShape& shape) {
  return std::int64_t{shape.num_heads} * shape.head_dim * shape.state_size;
}

__device__ __forceinline__ std::int64_t slot_of(const Batch& batch, int sequence) {
  return batch.slots != nullptr ? batch.slots[sequence] : sequence;
}

__global__ void __launch_bounds__(block_threads) widen_kernel(const StatesByChance op) {
  const int sequence = static_cast<int>(grid_row());
  if (sequence >= op.batch.sequences) return;
  const std::int64_t size = elements_of(op.shape);
  const auto* from = static_cast<const __nv_bfloat16*>(op.states) + slot_of(op.batch, sequence) * size;
  const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
  if (i < size) op.copy[sequence * size + i] = as_float(from[i]);
}

__global__ void __launch_bounds__(block_threads) round_kernel(const StatesByChance op) {
  const int sequence = static_cast<int>(grid_row()), N = op.shape.state_size;
  if (sequence >= op.batch.sequences) return;
  const int end = op.batch.sequence_start[sequence + 1];
  if (end == op.batch.sequence_start[sequence]) return;
  const int row_blocks = (N + together - 1) / together;
  const std::int64_t i = std::int64_t{blockIdx.x} * block_threads + threadIdx.x;
  const int pair = static_cast<int>(i % blocks_of_together);
  const std::int64_t run = i / blocks_of_together, row = run / row_blocks;
  if (row >= std::int64_t{op.shape.num_heads} * op.shape.head_dim) return;
  const int block = static_cast<int>(run % row_blocks);
  const auto head = static_cast<unsigned>(row / op.shape.head_dim), p = static_cast<unsigned>(row % op.shape.head_dim);
  const uint4 random =
      philox({state_rounding_key[0], state_rounding_key[1]},
             {8U * (p * static_cast<unsigned>(row_blocks) + static_cast<unsigned>(block)) + static_cast<unsigned>(pair),
              head, static_cast<unsigned>(op.positions[end - 1]), op.layer});
  const unsigned words[4] = {random.x, random.y, random.z, random.w};
  const std::int64_t size = elements_of(op.shape);
  const float* from = op.copy + sequence * size + row * N;
  auto* to = static_cast<unsigned short*>(op.states) + slot_of(op.batch, sequence) * size + row * N;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const int n = block * together + 16 * w + 2 * pair;
    if (n < N) to[n] = static_cast<unsigned short>(rounded_by_chance(from[n], words[w] & 0xFFFFU));
    if (n + 1 < N) to[n + 1] = static_cast<unsigned short>(rounded_by_chance(from[n + 1], words[w] >> 16));
  }
}

void launch(void (*kernel)(StatesByChance), const StatesByChance& op, std::int64_t threads, const char* name,
            cudaStream_t stream) {
  if (threads == 0 || op.batch.sequences == 0) return;
  const dim3 grid = grid_of_rows((threads + block_threads - 1) / block_threads, op.batch.sequences);
  kernel<<<grid, block_threads, 0, stream>>>(op);
  check_launch(name);
}

std::int64_t rows_of(const SsdShape& shape) {
  return std::int64_t{shape.num_heads} * shape.head_dim;
}

}  // namespace

void widen_states(const StatesByChance& op, cudaStream_t stream) {
  launch(widen_kernel, op, rows_of(op.shape) * op.shape.state_size, "widen_states", stream);
}

void round_states(const StatesByChance& op, cudaStream_t stream) {
  const std::int64_t row_blocks = (op.shape.state_size + together - 1) / together;
  launch(round_kernel, op, rows_of(op.shape) * row_blocks * blocks_of_together, "round_states", stream);
}

}  // namespace mamba2::cuda
