// What a block of decode_layers keeps in shared memory, and its warps that fill it: weights in a ring of stages, ahead
// of use across tiles, products and layers, and the states of the layer to come.
#pragma once

#include "mamba2/cuda/conv_step.cuh"
#include "mamba2/cuda/decode_layers.h"
#include "mamba2/cuda/hopper.cuh"

namespace mamba2::cuda {

constexpr int consumer_threads = 32 * decode_warps, block_threads = consumer_threads + 64;
constexpr int consumer_barrier = 1;
constexpr int kernel_taps = decode_conv_kernel;
constexpr int in_row_ways = 3;
constexpr int own_heads = 2;  // that the channels of a block belong to, at most

/// What one head's channels share.
struct alignas(vector_bytes) HeadStep {
  float dt, decay, D;
};

__device__ __forceinline__ void ask_for_line(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

/// A row of in_proj for one sequence: what becomes of its product.
struct InProjRow {
  enum class Kind : std::uint8_t { convolved, dt, z };
  /// The same for all layers.
  struct Use {
    Kind kind;
    bool shared;       // by all blocks
    std::uint8_t way;  // which of three warps ends up with it: none takes more than one way
    int index;         // channel of the convolution, head or channel of the block
    int to;            // shared column, or channel of the block
  };
  Use use;
  float taps[kernel_taps], weight[kernel_taps], bias;

  static __device__ Use find(int local, const DecodeShare& share, const DecodeShape& shape) {
    const int own = local - share.shared.count, b = share.shared.first + local, channels = share.channels.count;
    if (own < 0 && b < 2 * shape.state_size) return {Kind::convolved, true, 0, shape.inner() + b, b};
    if (own < 0) return {Kind::dt, true, 0, b - 2 * shape.state_size, b};
    if (own < channels) return {Kind::convolved, false, 1, share.channels.first + own, own};
    return {Kind::z, false, 2, own - channels, own - channels};
  }
  /// Starts what the row needs besides its product on its way.
  __device__ __forceinline__ void load(const DecodeLayer& layer, std::int64_t conv_row) {
    if (use.kind == Kind::dt) bias = layer.dt_bias[use.index];
    if (use.kind != Kind::convolved) return;
    const float* const state = layer.conv_state + (conv_row + use.index) * (kernel_taps - 1);
#pragma unroll
    for (int k = 0; k + 1 < kernel_taps; ++k) taps[k] = state[k];
    const float4 four = reinterpret_cast<const float4*>(layer.conv_weight)[use.index];
    weight[0] = four.x, weight[1] = four.y, weight[2] = four.z, weight[3] = four.w;
    bias = layer.conv_bias != nullptr ? layer.conv_bias[use.index] : 0.0F;
  }
  __device__ __forceinline__ void ask_for(const DecodeLayer& next, std::int64_t conv_row) const {
    if (use.kind == Kind::dt) ask_for_line(next.dt_bias + use.index);
    if (use.kind != Kind::convolved) return;
    ask_for_line(next.conv_state + (conv_row + use.index) * (kernel_taps - 1));
    ask_for_line(next.conv_weight + use.index * kernel_taps);
    if (next.conv_bias != nullptr) ask_for_line(next.conv_bias + use.index);
  }
  __device__ __forceinline__ float convolve(float value) {
    taps[kernel_taps - 1] = value;
    return conv_output(taps, weight, bias);
  }
  __device__ __forceinline__ void shift(const DecodeLayer& layer, std::int64_t conv_row) const {
    write_taps(layer.conv_state + (conv_row + use.index) * (kernel_taps - 1), taps);
  }
};

/// What a block's threads share besides what the plan places.
struct BlockShared {
  std::uint64_t full[decode_most_stages], empty[decode_most_stages], states_full, states_empty;
  float squares[2][decode_warps][decode_most_rows];  // of hidden and of y
  HeadStep heads[decode_most_rows][own_heads];
  std::int64_t slots[decode_most_rows];
  DecodeShare share;
  InProjRow::Use uses[decode_most_tiles][decode_tile_rows];
};

struct DecodeArguments {
  DecodeLayers op;
  DecodePlan plan;
  DecodeExchange exchange;
};

/// A block's shared memory by its plan.
struct BlockMemory {
  std::byte* base;
  const DecodePlan& plan;

  __device__ BlockShared& shared() const { return *reinterpret_cast<BlockShared*>(base); }
  __device__ DecodeLayer* layers() const { return reinterpret_cast<DecodeLayer*>(base + plan.layers_at); }
  /// Of the parts of all rows of x, one row's three after the other's.
  __device__ std::byte* part(int number) const { return base + plan.parts_at + number * plan.x_stride; }
  __device__ float* gains() const { return reinterpret_cast<float*>(base + plan.gains_at); }
  __device__ float* BC() const { return reinterpret_cast<float*>(base + plan.BC_at); }
  __device__ float* own_x(int row) const { return reinterpret_cast<float*>(base + plan.own_at) + row * plan.channels; }
  __device__ float* own_z(int row, int rows) const { return own_x(rows + row); }
  __device__ float* fold(int buffer, int warp, int rows) const {
    return reinterpret_cast<float*>(base + plan.fold_at) +
           (buffer * decode_warps + warp) * rows * decode_x_parts * decode_fold_stride;
  }
  __device__ std::byte* states() const { return base + plan.states_at; }
  __device__ std::byte* ring() const { return base + plan.ring_at; }
};

// ---- the warps that copy ----

/// A warp that keeps as many stages under way as the ring has room for, a lane a row of each.
__device__ inline void keep_weights_coming(const DecodeLayers& op, const BlockMemory& memory) {
  BlockShared& shared = memory.shared();
  const DecodeShare& share = shared.share;
  const int lane = static_cast<int>(threadIdx.x) % 32, capacity = memory.plan.ring_bytes;
  RingCursor newest, oldest;
  DecodeWalk walk, oldest_walk;
  int number = 0, freed = 0, used = 0;
  for (int l = 0; l < op.shape.layers;) {
    const RingCursor::Taken taken = newest.take(walk.bytes(share), capacity);
    while (used + taken.cost > capacity || number - freed == decode_most_stages) {
      barrier_wait(shared.empty + freed % decode_most_stages, freed / decode_most_stages % 2);
      used -= oldest.take(oldest_walk.bytes(share), capacity).cost;
      oldest_walk.go_on(share);
      ++freed;
    }
    used += taken.cost;
    const DecodeProduct& product = share.products[walk.product];
    const Part tile = share.tiles[walk.product][walk.tile];
    std::uint64_t* const full = shared.full + number % decode_most_stages;
    const int bytes = 2 * product.round_columns(walk.round);
    if (lane == 0) barrier_arrive_expect(full, tile.count * bytes);
    __syncwarp();
    if (lane < tile.count) {
      const DecodeLayer& layer = memory.layers()[l];
      const std::int64_t row = share.weight_row(walk.product, tile.first + lane, op.shape);
      const auto* const weight = static_cast<const __nv_bfloat16*>(walk.product == 0 ? layer.in_proj : layer.out_proj);
      copy_run(memory.ring() + taken.place + lane * product.stride(),
               weight + row * product.columns + walk.round * decode_stage_columns, bytes, full);
    }
    ++number;
    walk.go_on(share);
    if (walk.product + walk.tile + walk.round == 0) ++l;
  }
}

/// A warp that fetches the block's rows of the next layer's states as soon as there is room, a lane a sequence.
__device__ inline void keep_states_coming(const DecodeLayers& op, const BlockMemory& memory) {
  BlockShared& shared = memory.shared();
  const DecodeShare& share = shared.share;
  const int row_bytes = op.shape.state_size * op.shape.state_element, bytes = share.channels.count * row_bytes;
  const int r = static_cast<int>(threadIdx.x) % 32;
  for (int l = 0; l < op.shape.layers; ++l) {
    if (l > 0) barrier_wait(&shared.states_empty, (l - 1) % 2);
    if (r == 0) barrier_arrive_expect(&shared.states_full, op.shape.rows * bytes);
    __syncwarp();
    if (r >= op.shape.rows) continue;
    const auto* const states = static_cast<const std::byte*>(memory.layers()[l].ssm_state);
    copy_run(memory.states() + r * bytes,
             states + (shared.slots[r] * op.shape.inner() + share.channels.first) * row_bytes, bytes,
             &shared.states_full);
  }
}

}  // namespace mamba2::cuda
