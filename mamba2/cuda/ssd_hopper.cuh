// Device code that both passes of the tensor core scan use.
#pragma once

#include <cstddef>
#include <type_traits>

#include "mamba2/cuda/activation.cuh"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/grid.cuh"
#include "mamba2/cuda/hopper.cuh"
#include "mamba2/cuda/ssd_hopper.h"

namespace mamba2::cuda::ssd {

constexpr int chunk = ssd_chunk_tokens;  // tokens, and rows of a panel
constexpr int head_dim = 64;
constexpr int heads_per_block = 2;
constexpr int warpgroup = 128;  // threads
constexpr int scanners = heads_per_block * warpgroup;
constexpr int full_arrivals = 1 + 32 * heads_per_block;  // a thread starts copies, a warp a head prepares its decays
constexpr int panel_bytes = chunk * panel_row_bytes;
constexpr float log2_e = 1.44269504088896340736F;

/// Which run of tokens a block works on.
struct Piece {
  int sequence = -1;       // -1: none left for this block
  int index = 0;           // of the piece in its sequence
  int entries_before = 0;  // SsdParts entries of earlier sequences
};

__device__ __forceinline__ int segments_of(int tokens, const SsdTiles& tiles) {
  return (tokens + tiles.segment_tokens - 1) / tiles.segment_tokens;
}
/// Entries in SsdParts; sequences of one segment need none.
__device__ __forceinline__ int entries_of(int tokens, const SsdTiles& tiles) {
  return tokens > tiles.segment_tokens ? (tokens + tiles.part_tokens - 1) / tiles.part_tokens + 1 : 0;
}

/// Finds piece number `number` where a sequence of some length has count(length) pieces.  Called by whole warps.
template <class Count>
__device__ Piece find_piece(const Batch& batch, const SsdTiles& tiles, int number, Count&& count) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int pieces_before = 0, entries_before = 0;
  for (int first = 0; first < batch.sequences; first += 32) {
    const int sequence = first + lane;
    const bool exists = sequence < batch.sequences;
    const int tokens = exists ? batch.sequence_start[sequence + 1] - batch.sequence_start[sequence] : 0;
    int pieces = exists ? count(tokens) : 0, entries = entries_of(tokens, tiles);
    const int own_pieces = pieces, own_entries = entries;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int p = __shfl_up_sync(0xFFFFFFFFU, pieces, distance);
      const int e = __shfl_up_sync(0xFFFFFFFFU, entries, distance);
      if (lane >= distance) pieces += p, entries += e;
    }
    const unsigned reached = __ballot_sync(0xFFFFFFFFU, pieces_before + pieces > number);
    if (reached != 0) {
      const int found = __ffs(static_cast<int>(reached)) - 1;
      Piece piece;
      piece.sequence = first + found;
      piece.index = number - pieces_before - __shfl_sync(0xFFFFFFFFU, pieces - own_pieces, found);
      piece.entries_before = entries_before + __shfl_sync(0xFFFFFFFFU, entries - own_entries, found);
      return piece;
    }
    pieces_before += __shfl_sync(0xFFFFFFFFU, pieces, 31);
    entries_before += __shfl_sync(0xFFFFFFFFU, entries, 31);
  }
  return {};
}

/// Which heads a block scans.  Blocks go through the groups, two heads at a time.
struct Heads {
  int group;
  int first;
  int count;  // 1 where a group has an odd number of heads and this is its last block

  __device__ Heads(const SsdShape& shape, int block) {
    const int per_group = shape.num_heads / shape.n_groups;
    const int blocks_per_group = (per_group + heads_per_block - 1) / heads_per_block;
    group = block / blocks_per_group;
    const int in_group = block % blocks_per_group * heads_per_block;
    first = group * per_group + in_group;
    count = min(heads_per_block, per_group - in_group);
  }
  /// The head of a warpgroup; where there is none, the other's again, whose results are then not stored.
  __device__ int of(int index) const { return first + min(index, count - 1); }
};

/// Where a thread sits in its warpgroup's fragments.
struct Lane {
  int warp = __shfl_sync(0xFFFFFFFFU, static_cast<int>(threadIdx.x) % warpgroup / 32, 0);  // known to be uniform
  int row = static_cast<int>(threadIdx.x) % 32 / 4;    // of the warp's 16 rows, and the one 8 below
  int column = static_cast<int>(threadIdx.x) % 4 * 2;  // of each 8 columns, and the next
  __device__ int thread() const { return static_cast<int>(threadIdx.x) % warpgroup; }
};

/// Which warpgroup of the block a thread is in, known to be uniform.
__device__ __forceinline__ int warpgroup_index() {
  return __shfl_sync(0xFFFFFFFFU, static_cast<int>(threadIdx.x) / warpgroup, 0);
}

/// Byte offset of the 16-byte piece `piece` of row `row` in a panel.
__device__ __forceinline__ int panel_offset(int row, int piece) {
  return row * panel_row_bytes + ((piece ^ (row & 7)) << 4);
}

/// The address that this lane hands to load_transposed / store_transposed for tokens [16 block, 16 block + 16) of its
/// warp's 16 channels in an x panel: registers then hold an A fragment, rows channels and columns tokens.
__device__ __forceinline__ std::uint32_t channel_fragment_address(std::uint32_t panel, int warp, int block) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int token = block * 16 + lane / 16 * 8 + lane % 8;
  return panel + panel_offset(token, 2 * warp + lane / 8 % 2);
}

/// An A fragment of x with token j's column multiplied by weight[j], rounded to T again.
template <class T>
__device__ __forceinline__ void scale_tokens(std::uint32_t (&to)[4], const std::uint32_t (&from)[4],
                                             const float* weight, int first_token) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 w = *reinterpret_cast<const float2*>(weight + first_token + 8 * half);
#pragma unroll
    for (int r = 2 * half; r < 2 * half + 2; ++r) {
      const float2 value = unpacked(from[r], T());
      to[r] = packed(value.x * w.x, value.y * w.y, T());
    }
  }
}

/// A head's state (64 x N, f32) in a warpgroup's registers, laid out as wgmma.cuh says.
template <int N>
using StateFragment = float[N / 2];

/// Reads a slot's state.  state points at (64, N) elements of S.
template <class S, int N>
__device__ void read_state(StateFragment<N>& fragment, const S* state, const Lane& lane) {
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const S* at = state + (16 * lane.warp + lane.row + 8 * half) * N + 8 * i + lane.column;
      fragment[4 * i + 2 * half] = as_float(at[0]);
      fragment[4 * i + 2 * half + 1] = as_float(at[1]);
    }
  }
}

template <class S, int N>
__device__ void write_state(S* state, const StateFragment<N>& fragment, const Lane& lane) {
  struct alignas(2 * sizeof(S)) Pair {
    S first, second;
  };
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      S* at = state + (16 * lane.warp + lane.row + 8 * half) * N + 8 * i + lane.column;
      *reinterpret_cast<Pair*>(at) = {rounded<S>(fragment[4 * i + 2 * half]),
                                      rounded<S>(fragment[4 * i + 2 * half + 1])};
    }
  }
}

/// fragment = fragment * factor + entry, entry in register order.
template <int N>
__device__ void add_entry(StateFragment<N>& fragment, const float* entry, float factor, const Lane& lane) {
  const auto* from = reinterpret_cast<const float4*>(entry) + lane.thread();
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    const float4 value = from[i * warpgroup];
    fragment[4 * i] = fragment[4 * i] * factor + value.x;
    fragment[4 * i + 1] = fragment[4 * i + 1] * factor + value.y;
    fragment[4 * i + 2] = fragment[4 * i + 2] * factor + value.z;
    fragment[4 * i + 3] = fragment[4 * i + 3] * factor + value.w;
  }
}

template <int N>
__device__ void write_entry(float* entry, const StateFragment<N>& fragment, const Lane& lane) {
  auto* to = reinterpret_cast<float4*>(entry) + lane.thread();
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    to[i * warpgroup] = {fragment[4 * i], fragment[4 * i + 1], fragment[4 * i + 2], fragment[4 * i + 3]};
  }
}

/// Sums over the tokens up to and including each lane's own; a lane holds two tokens, 2 lane and 2 lane + 1.
__device__ __forceinline__ float2 running_sum(float2 value) {
  float both = value.x + value.y;
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const float before = __shfl_up_sync(0xFFFFFFFFU, both, distance);
    if (lane >= distance) both += before;
  }
  return {both - value.y, both};
}

/// One head's dt on its way to the warp that turns it into decays, a few chunks ahead of use; a lane has two tokens.
class DtAhead {
 public:
  static constexpr int depth = 4;
  using Buffer = float[depth][chunk];

  __device__ DtAhead(Buffer& buffer, const SsdScan& scan, int head)
      : buffer_(buffer), scan_(scan), dt_(scan.dt + head), bias_(scan.dt_bias != nullptr ? scan.dt_bias[head] : 0.0F) {}

  /// Starts copying the chunk whose first token is `first` into place i; tokens from `end` on count as zero, so that
  /// they neither decay nor add.
  __device__ void start(int i, std::int64_t first, std::int64_t end) {
    for (int e = 0; e < 2; ++e) {
      const std::int64_t token = first + 2 * lane() + e;
      copy_float(&buffer_[i % depth][2 * lane() + e], dt_ + min(token, end - 1) * scan_.dt_stride, token < end);
    }
    commit_copies();
  }
  /// Counts as a start where there is no chunk left.
  __device__ void start_nothing() { commit_copies(); }
  /// What was started `depth - 1` starts before the last one; `valid` of its tokens come before the end.
  __device__ float2 finish(int i, int valid) {
    wait_copies<depth - 1>();
    float2 dt = *reinterpret_cast<const float2*>(&buffer_[i % depth][2 * lane()]);
    if (scan_.dt_bias == nullptr) return dt;
    dt.x = 2 * lane() < valid ? time_step(dt.x) : 0.0F;
    dt.y = 2 * lane() + 1 < valid ? time_step(dt.y) : 0.0F;
    return dt;
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ float time_step(float raw) const {
    return fminf(fmaxf(softplus(raw + bias_), scan_.dt_min), scan_.dt_max);
  }
  Buffer& buffer_;
  const SsdScan& scan_;
  const float* dt_;
  float bias_;
};

/// Calls f(element, state, state_size) with the types and the size that the tensor core path is built for.
template <class F>
void with_types(const SsdScan& scan, F&& f) {
  auto with_state = [&](auto element) {
    auto with_size = [&](auto state) {
      if (scan.shape.state_size == 128) return f(element, state, std::integral_constant<int, 128>());
      f(element, state, std::integral_constant<int, 64>());
    };
    if (scan.state_dtype == DType::f32) return with_size(ElementType<float>());
    with_size(ElementType<__nv_bfloat16>());
  };
  if (scan.dtype == DType::bf16) return with_state(ElementType<__nv_bfloat16>());
  with_state(ElementType<__half>());
}

}  // namespace mamba2::cuda::ssd
