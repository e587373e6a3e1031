// All layers of a decode step in one kernel, a block a multiprocessor, all of them resident.
//
// Why: a layer of 130m has 7.6 MB of weights, 1.8 us at the memory's rate; as three kernels it takes 12.9, most of it
// the ends and beginnings of kernels.  Here weights come to shared memory while blocks wait for each other, so that a
// layer takes the longer of its weights' way and three hand-overs between blocks (decode_exchange.cuh) with what is
// computed between them.  That is 9.8 us on an H200: of some 17 000 cycles 6000 are hand-overs and nothing waits for
// weights; the rest are the instructions of eight warps in a row, four to six cycles each.
//
// Shares (decode_plan.h): a block has some channels of the mixer and computes their z and x, steps their convolution
// and their rows of the state, and makes their y; none of that leaves it.  B, C and dt, a twelfth of in_proj's output,
// are shared out too, and the only part of it that all blocks wait for.  So a layer has three hand-overs: B, C and dt
// after the first tile of in_proj, while the other tiles go on; y; and the hidden states after out_proj.  Neither norm
// needs one: x is scaled by the norm's weight on its way in, and its product by 1 / rms of all of x, which each block
// sums for itself.  The residual stays with the block that owns the output.
//
// Roles: eight warps compute, one keeps the ring of weights full, across layers, one fetches the next layer's states.
// Small parameters are asked for into L2 a layer ahead.
//
// Waiting: every block waits for all others, so all must run: the launch is cooperative, one block a multiprocessor,
// and is not taken where the device has no room for that.  Numbers of exchanges rise from call to call and nothing is
// reset.  A word is written again only after all blocks have read it: whoever writes the next y has seen hidden states
// of all blocks, which they made from the last y, and so on round.
//
// Bits: those of linear_streamed and mixer_step.  A warp multiplies the same 64 of each 512 columns in the same order,
// sums fold over warps in the same order, a lane has the same elements of the state.  Nothing depends on which block or
// tile a row falls to, nor on other sequences, nor on timing: there are no atomics.
#include <algorithm>
#include <new>

#include "mamba2/cuda/activation.cuh"
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/decode_computing.cuh"
#include "mamba2/cuda/device.h"
#include "mamba2/cuda/mma.cuh"
#include "mamba2/cuda/state_step.cuh"

namespace mamba2::cuda {

/// Takes the next stage, of `count` rows; rows: where the lane's pieces lie in it.
template <class S, int N, int Parts>
__device__ __forceinline__ void Computing<S, N, Parts>::next_weights(Pieces& w, const int (&rows)[tile_sets], int bytes,
                                                                     bool exists, int count) {
  const int slot = stage_ % decode_most_stages, place = ring_.take(bytes, memory_.plan.ring_bytes).place;
  barrier_wait(shared_.full + slot, stage_ / decode_most_stages % 2);
  if (exists) {
#pragma unroll
    for (int j = 0; j < tile_sets; ++j) {
      if (j * set_rows >= count) break;
      load_pieces(w[j], memory_.ring(), place + rows[j]);
    }
  }
  __syncwarp();
  if (lane() == 0) barrier_arrive(shared_.empty + slot);
  ++stage_;
}

/// What becomes of a product of in_proj: the convolution's step, dt or the gate; B, C and dt go to all blocks.
template <class S, int N, int Parts>
__device__ __forceinline__ void Computing<S, N, Parts>::finish_in(InProjRow& row, int s, float value, int l) {
  const InProjRow::Use& use = row.use;
  if (use.kind == InProjRow::Kind::z) {
    memory_.own_z(s, op_.shape.rows)[use.to] = silu(value);
    return;
  }
  const float result = use.kind == InProjRow::Kind::convolved
                           ? row.convolve(value)
                           : fminf(fmaxf(softplus(value + row.bias), op_.dt_min), op_.dt_max);
  if (use.shared) {
    send(words(exchange_.shared_at, s, op_.shape.shared_columns()), use.to, result, number(l));
  } else {
    memory_.own_x(s)[use.to] = result;
  }
  if (use.kind == InProjRow::Kind::convolved) row.shift(memory_.layers()[l], conv_row(s));
}

/// The block's rows of one of the layer's products.  The parts of x are the rows of the instructions' first operand,
/// rows of W the columns of the second, so that what a lane reads of W goes to them as it is.  What does not need x is
/// done before x has come: the first weights are in registers then.
template <class S, int N, int Parts>
__device__ __forceinline__ void Computing<S, N, Parts>::multiply(int l, int phase) {
  const DecodeShape& shape = op_.shape;
  const DecodeProduct& product = share_.products[phase];
  const int g = lane() / 4, t = lane() % 4, columns = product.columns, rounds = product.rounds();
  const int stride = product.stride(), tiles = product.tiles();
  const bool last = l + 1 == shape.layers;
  const int first_column = warp() * decode_panel_columns;
  // The lane's first piece of 16 columns: the second one where t is 2 or 3.
  const int piece = 2 * first_column + (2 * t + t / 2) * vector_bytes;
  const int all_parts = shape.rows * decode_x_parts;
  const int ways = phase == in_phase ? this->ways() : 1, s = warp() / ways;
  float squares = 0;
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const Part rows = share_.tiles[phase][tile];
    bool owns = lane() < rows.count && s < shape.rows;
    InProjRow row;
    if (phase == in_phase && owns) {
      row.use = shared_.uses[tile][lane()];
      owns = ways == 1 || row.use.way == warp() % ways;
      if (owns) row.load(memory_.layers()[l], conv_row(s));
    }
    int at[tile_sets];  // what lies past the last row is another's: so are the sums it gives
#pragma unroll
    for (int j = 0; j < tile_sets; ++j) at[j] = min(j * set_rows + g, rows.count - 1) * stride + piece;
    Pieces w;
    next_weights(w, at, rows.count * stride, first_column < columns, rows.count);
    if (tile == 0) {
      wait_copies<1>();
      squares = take_x(l, phase);
      meet();
    }
    float sums[tile_sets][4] = {};
    int x_at = memory_.plan.parts_at + piece;
#pragma unroll 1
    for (int round = 0;;) {
      if (first_column + round * decode_stage_columns < columns) {
        unsigned x[2][8] = {};  // of the lower and the upper set of parts
#pragma unroll
        for (int set = 0; set < Parts; ++set)
          load_pieces(x[set], memory_.base, x_at + min(set * set_rows + g, all_parts - 1) * memory_.plan.x_stride);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const unsigned a[4] = {x[0][2 * k], x[1][2 * k], x[0][2 * k + 1], x[1][2 * k + 1]};
#pragma unroll
          for (int j = 0; j < tile_sets; ++j) {
            if (j * set_rows >= rows.count) break;
            cuda::multiply(sums[j], a, w[j][2 * k], w[j][2 * k + 1]);
          }
        }
      }
      if (++round == rounds) break;
      x_at += 2 * decode_stage_columns;
      next_weights(w, at, rows.count * stride, first_column + round * decode_stage_columns < columns, rows.count);
    }
    if (tile == 0) {
      squares = warp_sum(squares);
      if (lane() == 0) shared_.squares[phase][warp()][shape.rows - 1] = squares;
    }
    float* const fold = memory_.fold(buffer_, warp(), shape.rows);
#pragma unroll
    for (int set = 0; set < Parts; ++set) {
      if (set * set_rows + g >= all_parts) continue;
      float* const to = fold + (set * set_rows + g) * decode_fold_stride + 2 * t;
#pragma unroll
      for (int j = 0; j < tile_sets; ++j)
        *reinterpret_cast<float2*>(to + j * set_rows) = {sums[j][2 * set], sums[j][2 * set + 1]};
    }
    meet();
    if (owns) {
      const float* from = memory_.fold(buffer_, 0, shape.rows) + s * decode_x_parts * decode_fold_stride + lane();
      float sum = 0;
#pragma unroll
      for (int i = 0; i < decode_warps; ++i, from += all_parts * decode_fold_stride) {
        float own = from[(decode_x_parts - 1) * decode_fold_stride];
#pragma unroll
        for (int p = decode_x_parts - 2; p >= 0; --p) own += from[p * decode_fold_stride];
        sum += own;
      }
      const float scale = scale_of(phase, s);
      if (phase == in_phase) {
        finish_in(row, s, fmaf(sum, scale, 0.0F), l);
      } else {
        residual_ = fmaf(sum, scale, residual_);
        if (!last)
          send(words(exchange_.hidden_at, s, shape.hidden), share_.outputs.first + lane(), residual_, number(l));
      }
    }
    buffer_ ^= 1;
    if (!last && phase == in_phase && owns) row.ask_for(memory_.layers()[l + 1], conv_row(s));
  }
  // The norm's weight of the next layer, where this one's lay.
  if (last) return commit_copies();
  const DecodeLayer& next = memory_.layers()[l + 1];
  copy_gains(gains(phase), phase == in_phase ? next.norm_weight : next.gated_norm_weight, width(phase));
}

/// The states of the block's channels, and y on its way to the others.
template <class S, int N, int Parts>
__device__ __forceinline__ void Computing<S, N, Parts>::mix(int l) {
  constexpr int each = vector_elements<S>, row_lanes = N / each, at_once = consumer_threads / row_lanes;
  constexpr int together = sizeof(S) == 4 ? 2 : 1;  // channels of a thread at a time
  const DecodeShape& shape = op_.shape;
  const DecodeLayer& layer = memory_.layers()[l];
  const int first_head = share_.channels.first / decode_head_dim;
  // dt: the last threads, which have the fewest of B and C.
  const int place = consumer_threads - 1 - tid(), s = place / own_heads, head = first_head + place % own_heads;
  if (s < shape.rows && head < shape.heads) {
    const float A = -expf(layer.A_log[head]), D = layer.D[head];
    if (l + 1 < shape.layers) {
      ask_for_line(memory_.layers()[l + 1].A_log + head);
      ask_for_line(memory_.layers()[l + 1].D + head);
    }
    const float dt =
        receive(words(exchange_.shared_at, s, shape.shared_columns()) + exchange_place(2 * N + head), number(l));
    shared_.heads[s][head - first_head] = {dt, expf(dt * A), D};
  }
  __syncwarp();
#pragma unroll 1
  for (int pair = tid(); pair < shape.rows * N; pair += consumer_threads) {  // of B and C
    Received<2> got;
    const std::uint64_t* const from =
        words(exchange_.shared_at, pair / N, shape.shared_columns()) + exchange_place(pair % N * 2);
    do got.look(from, number(l));
    while (!got.all);
    reinterpret_cast<float2*>(memory_.BC())[pair] = {got.values[0], got.values[1]};
  }
  meet();
  barrier_wait(&shared_.states_full, l % 2);
  const int lane_in_row = tid() % row_lanes, at = lane_in_row * each, channels = share_.channels.count;
#pragma unroll 1
  for (int r = 0; r < shape.rows; ++r) {
    const float *B = memory_.BC() + r * 2 * N + at, *C = B + N;
    alignas(vector_bytes) float B_own[each], C_own[each];
#pragma unroll
    for (int e = 0; e < each; e += 4) {
      *reinterpret_cast<float4*>(B_own + e) = *reinterpret_cast<const float4*>(B + e);
      *reinterpret_cast<float4*>(C_own + e) = *reinterpret_cast<const float4*>(C + e);
    }
    const std::byte* const from = memory_.states() + (r * channels * N + at) * static_cast<int>(sizeof(S));
    S* const to =
        static_cast<S*>(layer.ssm_state) + (shared_.slots[r] * shape.inner() + share_.channels.first) * N + at;
    std::uint64_t* const y_words = words(exchange_.y_at, r, shape.inner());
#pragma unroll 1
    for (int first = 0; first < channels; first += together * at_once) {
      float y[together], x[together], D[together], z[together];
      uint4 stepped[together];
#pragma unroll
      for (int i = 0; i < together; ++i) {
        // Whole warps go on where some of their channels are none: their lanes meet.
        const int c = min(first + i * at_once + tid() / row_lanes, channels - 1), channel = share_.channels.first + c;
        const HeadStep step = shared_.heads[r][channel / decode_head_dim - first_head];
        x[i] = memory_.own_x(r)[c];
        z[i] = memory_.own_z(r, shape.rows)[c];
        D[i] = step.D;
        float values[each];
        unpack_vector<S>(values, load_vector(from + c * N * static_cast<int>(sizeof(S))));
        y[i] = step_state(values, step.decay, step.dt * x[i], B_own, C_own, 0.0F);
        if (sizeof(S) == 2 && op_.positions != nullptr) {
          const StochasticRounding rounding{op_.positions, op_.first_layer + static_cast<unsigned>(l)};
          stepped[i] = pack_by_chance<S>(values, random_bits(rounding, op_.positions[r], channel / decode_head_dim,
                                                             channel % decode_head_dim, at, (N + 63) / 64));
        } else {
          stepped[i] = pack_vector<S>(values);
        }
      }
#pragma unroll
      for (int distance = row_lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (int i = 0; i < together; ++i) y[i] += __shfl_xor_sync(0xFFFFFFFFU, y[i], distance);
      }
#pragma unroll
      for (int i = 0; i < together; ++i) {
        const int c = first + i * at_once + tid() / row_lanes;
        if (c < channels && lane_in_row == 0)
          send(y_words, share_.channels.first + c, fmaf(D[i], x[i], y[i]) * z[i], number(l));
      }
#pragma unroll
      for (int i = 0; i < together; ++i) {
        const int c = first + i * at_once + tid() / row_lanes;
        if (c < channels) store_once(to + c * N, stepped[i]);
      }
    }
  }
  __syncwarp();
  if (lane() == 0) barrier_arrive(&shared_.states_empty);
}

template <class S, int N, int Parts>
__device__ __forceinline__ void Computing<S, N, Parts>::run() {
  start();
  // One body for both products: a layer's instructions have to stay in their cache.
#pragma unroll 1
  for (int l = 0; l < op_.shape.layers; ++l) {
#pragma unroll 1
    for (int phase = in_phase; phase <= out_phase; ++phase) {
      multiply(l, phase);
      if (phase == in_phase) mix(l);
    }
  }
  if (lane() < share_.outputs.count && warp() < op_.shape.rows)
    static_cast<float*>(op_.hidden.data)[warp() * op_.hidden.stride + share_.outputs.first + lane()] = residual_;
}

namespace {

template <class S, int N, int Parts>
__global__ void __launch_bounds__(block_threads, 1) decode_kernel(const __grid_constant__ DecodeArguments arguments) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte bytes[];
  const DecodeLayers& op = arguments.op;
  const BlockMemory memory{bytes, arguments.plan};
  BlockShared& shared = memory.shared();
  const int tid = static_cast<int>(threadIdx.x);
  // The number of exchanges changes when all blocks have sent their last y, and so have read it.
  const unsigned before = *reinterpret_cast<const unsigned*>(op.exchange);
  for (int l = tid; l < op.shape.layers; l += block_threads) memory.layers()[l] = op.layer[l];
  if (tid < op.shape.rows) shared.slots[tid] = op.slots[tid];
  if (tid == 0) {
    new (&shared.share) DecodeShare(op.shape, static_cast<int>(gridDim.x), static_cast<int>(blockIdx.x));
    for (int i = 0; i < decode_most_stages; ++i) {
      barrier_init(shared.full + i, 1);
      barrier_init(shared.empty + i, decode_warps);
    }
    barrier_init(&shared.states_full, 1);
    barrier_init(&shared.states_empty, decode_warps);
    barrier_init_fence();
  }
  __syncthreads();
  for (int tile = 0; tile < shared.share.products[0].tiles(); ++tile)
    if (tid < shared.share.tiles[0][tile].count)
      shared.uses[tile][tid] = InProjRow::find(shared.share.tiles[0][tile].first + tid, shared.share, op.shape);
  __syncthreads();
  if (tid < consumer_threads) {
    Computing<S, N, Parts>(arguments, memory, before).run();
    if (blockIdx.x == 0 && tid == 0)
      *reinterpret_cast<unsigned*>(op.exchange) = before + static_cast<unsigned>(op.shape.layers + 1);
  } else if (tid < consumer_threads + 32) {
    keep_weights_coming(op, memory);
  } else {
    keep_states_coming(op, memory);
  }
#endif
}

using Kernel = void (*)(DecodeArguments);

template <int Parts>
Kernel kernel_of_parts(const DecodeShape& shape) {
  if (shape.state_element == 4)
    return shape.state_size == 64 ? decode_kernel<float, 64, Parts> : decode_kernel<float, 128, Parts>;
  return shape.state_size == 64 ? decode_kernel<__nv_bfloat16, 64, Parts> : decode_kernel<__nv_bfloat16, 128, Parts>;
}

Kernel kernel_of(const DecodeShape& shape) {
  return shape.rows * decode_x_parts <= set_rows ? kernel_of_parts<1>(shape) : kernel_of_parts<2>(shape);
}

DecodePlan plan_of(const DecodeShape& shape) {
  const DeviceProperties& device = current_device();
  return decode_plan(shape, device.multiprocessors, device.shared_bytes, static_cast<int>(sizeof(BlockShared)),
                     static_cast<int>(sizeof(DecodeLayer)));
}

/// Whether the device holds a block a multiprocessor of each kernel.
bool all_are_resident(int shared_bytes) {
  for (const int state_element : {2, 4})
    for (const int state_size : {64, 128})
      for (const int rows : {1, decode_most_rows}) {
        DecodeShape shape;
        shape.rows = rows;
        shape.state_element = state_element;
        shape.state_size = state_size;
        const Kernel kernel = kernel_of(shape);
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), "decode layers");
        int blocks = 0;
        check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, block_threads,
                                                            static_cast<std::size_t>(shared_bytes)),
              "decode layers: blocks that fit a multiprocessor");
        if (blocks < 1) return false;
      }
  return true;
}

}  // namespace

bool decode_layers_takes(const DecodeShape& shape) {
  const DeviceProperties& device = current_device();
  if (device.compute_capability / 10 != 9 || plan_of(shape).blocks == 0) return false;
  static const bool resident = all_are_resident(device.shared_bytes);
  return resident;
}

void decode_layers(const DecodeLayers& op, cudaStream_t stream) {
  const DecodeArguments arguments{op, plan_of(op.shape), DecodeExchange(op.shape)};
  cudaLaunchAttribute cooperative;  // the driver starts all blocks together or none
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(arguments.plan.blocks));
  config.blockDim = dim3(block_threads);
  config.dynamicSmemBytes = static_cast<std::size_t>(arguments.plan.bytes);
  config.stream = stream;
  config.attrs = &cooperative;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel_of(op.shape), arguments), "decode layers");
}

}  // namespace mamba2::cuda
