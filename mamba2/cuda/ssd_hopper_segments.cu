// Second pass of the tensor core scan: outputs and final states, one chunk of 64 tokens after the other.
//
//   y^T (channels x tokens) = e_i (S C^T) + x^T M^T + D x^T,   M_ij = (C_i . B_j) dt_j exp(cum_i - cum_j) for j <= i
//   S = e_end S + (w x)^T B,     e_i = exp(cum_i),  w_j = dt_j exp(cum_end - cum_j)
//
// Parallel: segments x pairs of heads.  A warpgroup keeps its head's state in registers over the whole segment: f32 as
// accumulator, and rounded as the A operand of S C^T; x^T is the A operand of the other two products.  Everything that is
// shared by the heads of a group (C B^T) is computed once for the pair, each warpgroup every other 8 columns, so that
// both have as many entries under the diagonal; it leaves M for both heads in shared memory.
// Streamed: x, B, C by bulk copies three chunks deep; a ninth warp loads and turns dt into the four decays per token.
// y^T goes out through the x panel it came in by, transposed, 32 bytes a row and warp.
// Why 64 tokens: a chunk costs 64 x 64 exponentials and 2 x 64 x 64 x 64 products a head that grow with its length,
// against 4 x 64 x 64 x 128 that do not.  Exponents are differences of sums, never positive, so nothing overflows.
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/ssd_hopper.cuh"

namespace mamba2::cuda {
namespace ssd {
namespace {

constexpr int stages = 3;
// Three warpgroups share 65536 registers: 168 a thread on average.
constexpr int loader_registers = 40, scanner_registers = 232;

/// What the loading warp makes of a head's dt.
struct Decays {
  float cumulative[chunk];  // log2
  float dt[chunk];
  float from_start[chunk];
  float to_end[chunk];  // times dt
};

template <int N>
struct alignas(panel_atom_bytes) SegmentStage {
  std::byte B[N / 64][panel_bytes];
  std::byte C[N / 64][panel_bytes];
  std::byte x[heads_per_block][panel_bytes];
};

template <int N>
struct SegmentShared {
  SegmentStage<N> stage[stages];
  std::byte M[2][heads_per_block][panel_bytes];  // rows i, columns j; chunks take turns
  Decays decays[stages][heads_per_block];
  std::uint64_t full[stages], empty[stages];
};

/// The block's run of tokens.
struct Segment {
  std::int64_t first, end;
  __device__ int chunks() const { return static_cast<int>((end - first + chunk - 1) / chunk); }
};

template <int N>
__device__ void load_segment(SegmentShared<N>& shared, const SsdScan& scan, const SsdMaps& maps, const Heads& heads,
                             const Segment& segment) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float rate[heads_per_block];
#pragma unroll
  for (int h = 0; h < heads_per_block; ++h) rate[h] = scan.A[heads.of(h)] * log2_e;
  const int chunks = segment.chunks();
  for (int i = 0; i < chunks; ++i) {
    const int s = i % stages;
    const std::int64_t token = segment.first + static_cast<std::int64_t>(i) * chunk;
    float2 dt[heads_per_block];
#pragma unroll
    for (int h = 0; h < heads_per_block; ++h) dt[h] = read_dt(scan, token, segment.end, heads.of(h));
    barrier_wait(&shared.empty[s], (i / stages + 1) % 2);
    SegmentStage<N>& stage = shared.stage[s];
    if (lane == 0) {
      barrier_arrive_expect(&shared.full[s], static_cast<int>(sizeof(SegmentStage<N>)));
      for (int panel = 0; panel < N / 64; ++panel) {
        copy_box(stage.B[panel], &maps.B, heads.group * N + panel * 64, static_cast<int>(token), &shared.full[s]);
        copy_box(stage.C[panel], &maps.C, heads.group * N + panel * 64, static_cast<int>(token), &shared.full[s]);
      }
      for (int h = 0; h < heads_per_block; ++h)
        copy_box(stage.x[h], &maps.x, heads.of(h) * head_dim, static_cast<int>(token), &shared.full[s]);
    }
#pragma unroll
    for (int h = 0; h < heads_per_block; ++h) {
      const float2 sum = running_sum({dt[h].x * rate[h], dt[h].y * rate[h]});
      const float whole = __shfl_sync(0xFFFFFFFFU, sum.y, 31);
      Decays& decays = shared.decays[s][h];
      auto put = [lane](float* to, float first, float second) {
        *reinterpret_cast<float2*>(to + 2 * lane) = {first, second};
      };
      put(decays.cumulative, sum.x, sum.y);
      put(decays.dt, dt[h].x, dt[h].y);
      put(decays.from_start, exp2_fast(sum.x), exp2_fast(sum.y));
      put(decays.to_end, exp2_fast(whole - sum.x) * dt[h].x, exp2_fast(whole - sum.y) * dt[h].y);
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(&shared.full[s]);
  }
}

/// Zeroes the rows of x and B past the sequence's end: another sequence's tokens, whose infinities would survive a
/// factor of zero.
template <int N>
__device__ void clear_rows(SegmentStage<N>& stage, int valid) {
  const int pieces = (chunk - valid) * (panel_row_bytes / 16);
  for (int i = static_cast<int>(threadIdx.x); i < pieces; i += scanners) {
    const int offset = valid * panel_row_bytes + i * 16;
    for (int panel = 0; panel < N / 64; ++panel) *reinterpret_cast<uint4*>(stage.B[panel] + offset) = uint4{};
    for (int h = 0; h < heads_per_block; ++h) *reinterpret_cast<uint4*>(stage.x[h] + offset) = uint4{};
  }
  fence_async_proxy();
  named_barrier(1, scanners);
}

/// This warpgroup's columns of C B^T: groups of 8, every other one from `index` on.
template <class T, int N>
__device__ void multiply_CB(float (&CB)[16], const SegmentStage<N>& stage, int index) {
  const std::uint64_t C = panel_descriptor(shared_address(stage.C), panel_atom_bytes, panel_bytes);
  const std::uint64_t B = panel_descriptor(shared_address(stage.B) + index * panel_atom_bytes, 2 * panel_atom_bytes, panel_bytes);
#pragma unroll
  for (int k = 0; k < N / 16; ++k) {
    const int bytes = k / 4 * panel_bytes + k % 4 * 32;
    wgmma_m64n32k16(T(), CB, advanced(C, bytes), advanced(B, bytes), k > 0);
  }
}

/// M of one head from C B^T, this warpgroup's columns.  What lies above the diagonal's 8-column groups stays zero.
template <class T>
__device__ void write_M(std::byte* M, const float (&CB)[16], const Decays& decays, int index, const Lane& lane) {
  const int i0 = 16 * lane.warp + lane.row, i1 = i0 + 8;
  const float cum0 = decays.cumulative[i0], cum1 = decays.cumulative[i1];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int piece = 2 * k + index, j = 8 * piece + lane.column;
    if (8 * piece > 16 * lane.warp + 15) continue;
    const float2 cum = *reinterpret_cast<const float2*>(decays.cumulative + j);
    const float2 dt = *reinterpret_cast<const float2*>(decays.dt + j);
    auto entry = [&](float cb, int i, int column, float cum_i, float cum_j, float dt_j) {
      return column <= i ? cb * dt_j * exp2_fast(cum_i - cum_j) : 0.0F;
    };
    std::byte* at = M + panel_offset(i0, piece) + 2 * lane.column;
    *reinterpret_cast<std::uint32_t*>(at) = packed(entry(CB[4 * k], i0, j, cum0, cum.x, dt.x),
                                                   entry(CB[4 * k + 1], i0, j + 1, cum0, cum.y, dt.y), T());
    *reinterpret_cast<std::uint32_t*>(at + panel_atom_bytes) = packed(
        entry(CB[4 * k + 2], i1, j, cum1, cum.x, dt.x), entry(CB[4 * k + 3], i1, j + 1, cum1, cum.y, dt.y), T());
  }
}

/// y^T = S C^T with S rounded.
template <class T, int N>
__device__ void multiply_state(float (&y)[32], const std::uint32_t (&S)[N / 16][4], const SegmentStage<N>& stage) {
  const std::uint64_t C = panel_descriptor(shared_address(stage.C), panel_atom_bytes, panel_bytes);
#pragma unroll
  for (int k = 0; k < N / 16; ++k)
    wgmma_m64n64k16(T(), y, S[k], advanced(C, k / 4 * panel_bytes + k % 4 * 32), k > 0);
}

/// y^T = e_i y^T + D x^T
template <class T>
__device__ void decay_and_skip(float (&y)[32], const std::uint32_t (&x)[4][4], const float* from_start, const float (&D)[2],
                               const Lane& lane) {
#pragma unroll
  for (int block = 0; block < 4; ++block) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float2 e = *reinterpret_cast<const float2*>(from_start + 16 * block + 8 * (r / 2) + lane.column);
      const float2 value = unpacked(x[block][r], T());
      float* at = y + 8 * block + 2 * r;
      at[0] = at[0] * e.x + D[r % 2] * value.x;
      at[1] = at[1] * e.y + D[r % 2] * value.y;
    }
  }
}

template <class T>
__device__ void multiply_M(float (&y)[32], const std::uint32_t (&x)[4][4], const std::byte* M) {
  const std::uint64_t descriptor = panel_descriptor(shared_address(M), panel_atom_bytes, panel_bytes);
#pragma unroll
  for (int block = 0; block < 4; ++block) wgmma_m64n64k16(T(), y, x[block], advanced(descriptor, block * 32), 1);
}

template <class T, int N>
__device__ void add_to_state(StateFragment<N>& state, const std::uint32_t (&x)[4][4], const SegmentStage<N>& stage) {
  const std::uint64_t B = panel_descriptor(shared_address(stage.B), panel_atom_bytes, panel_bytes);
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    const std::uint64_t rows = advanced(B, block * 16 * panel_row_bytes);
    if constexpr (N == 128) {
      wgmma_m64n128k16_by_columns(T(), state, x[block], rows, 1);
    } else {
      wgmma_m64n64k16_by_columns(T(), state, x[block], rows, 1);
    }
  }
}

/// Rounds y^T, turns it in place of x and writes the valid tokens' rows, gated where there is a gate.
template <class T>
__device__ void write_out(std::byte* panel, const float (&y)[32], const SsdScan& scan, std::int64_t token, int valid,
                          int head, const Lane& lane) {
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    std::uint32_t pairs[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) pairs[r] = packed(y[8 * block + 2 * r], y[8 * block + 2 * r + 1], T());
    store_transposed(channel_fragment_address(shared_address(panel), lane.warp, block), pairs);
  }
  __syncwarp();
  const int in_warp = static_cast<int>(threadIdx.x) % 32;
  const int piece = 2 * lane.warp + in_warp % 2;
  const std::int64_t channel = static_cast<std::int64_t>(head) * head_dim + piece * 8;
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    const int i = 16 * block + in_warp / 2;
    if (i >= valid) continue;
    auto row = *reinterpret_cast<const Vector<T>*>(panel + panel_offset(i, piece));
    if (scan.z.data != nullptr) {
      const auto z = load_vector(static_cast<const T*>(scan.z.data) + (token + i) * scan.z.stride + channel);
#pragma unroll
      for (int e = 0; e < 8; ++e) row.at[e] = rounded<T>(as_float(row.at[e]) * silu(as_float(z.at[e])));
    }
    store_vector(static_cast<T*>(scan.out.data) + (token + i) * scan.out.stride + channel, row);
  }
}

template <class T, int N>
__device__ void scan_segment(StateFragment<N>& state, SegmentShared<N>& shared, const SsdScan& scan, const Segment& segment,
                             const Heads& heads, int index, const Lane& lane) {
  const int head = heads.of(index);
  float D[2] = {};
  if (scan.D != nullptr) {
    for (int half = 0; half < 2; ++half)
      D[half] = scan.D[head * scan.D_head_stride + (16 * lane.warp + lane.row + 8 * half) * scan.D_channel_stride];
  }
  const int chunks = segment.chunks();
  for (int c = 0; c < chunks; ++c) {
    const int s = c % stages;
    const std::int64_t token = segment.first + static_cast<std::int64_t>(c) * chunk;
    const int valid = static_cast<int>(min(static_cast<std::int64_t>(chunk), segment.end - token));
    SegmentStage<N>& stage = shared.stage[s];
    barrier_wait(&shared.full[s], c / stages % 2);
    if (valid < chunk) clear_rows(stage, valid);

    std::uint32_t S[N / 16][4];
#pragma unroll
    for (int k = 0; k < N / 16; ++k) {
#pragma unroll
      for (int r = 0; r < 4; ++r) S[k][r] = packed(state[8 * k + 2 * r], state[8 * k + 2 * r + 1], T());
    }
    float CB[16], y[32];
    wgmma_fence();
    multiply_CB<T, N>(CB, stage, index);
    wgmma_commit();
    multiply_state<T, N>(y, S, stage);
    wgmma_commit();

    std::uint32_t x[4][4];
#pragma unroll
    for (int block = 0; block < 4; ++block)
      load_transposed(x[block], channel_fragment_address(shared_address(stage.x[index]), lane.warp, block));
    wgmma_wait<1>();
#pragma unroll
    for (int h = 0; h < heads_per_block; ++h) write_M<T>(shared.M[c % 2][h], CB, shared.decays[s][h], index, lane);
    fence_async_proxy();
    named_barrier(1, scanners);

    wgmma_wait<0>();
    const Decays& decays = shared.decays[s][index];
    decay_and_skip<T>(y, x, decays.from_start, D, lane);
    wgmma_fence();
    multiply_M<T>(y, x, shared.M[c % 2][index]);
    wgmma_commit();
    std::uint32_t weighted[4][4];
#pragma unroll
    for (int block = 0; block < 4; ++block)
      scale_tokens<T>(weighted[block], x[block], decays.to_end, block * 16 + lane.column);
    const float whole = decays.from_start[chunk - 1];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) state[i] *= whole;
    wgmma_fence();
    add_to_state<T, N>(state, weighted, stage);
    wgmma_commit();
    wgmma_wait<1>();
    write_out<T>(stage.x[index], y, scan, token, index < heads.count ? valid : 0, head, lane);
    wgmma_wait<0>();
    fence_async_proxy();
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&shared.empty[s]);
  }
}

/// The state that enters a segment: what the sequence started from, and the parts before it.
template <int N>
__device__ void combine_parts(StateFragment<N>& state, const SsdParts& parts, int first_entry, int parts_before,
                              int num_heads, int head, const Lane& lane) {
  for (int entry = first_entry; entry <= first_entry + parts_before; ++entry) {
    const std::int64_t place = static_cast<std::int64_t>(entry) * num_heads + head;
    add_entry<N>(state, parts.state + place * (head_dim * N), exp2_fast(parts.decay[place]), lane);
  }
}

template <class T, class S, int N>
__global__ void __launch_bounds__(block_threads, 1)
    segments_kernel(const SsdScan scan, const SsdTiles tiles, const __grid_constant__ SsdMaps maps, const SsdParts parts) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ std::byte shared_memory[];
  auto& shared = *reinterpret_cast<SegmentShared<N>*>(
      shared_memory + (panel_atom_bytes - shared_address(shared_memory) % panel_atom_bytes) % panel_atom_bytes);
  const Piece piece = find_piece(scan.batch, tiles, static_cast<int>(blockIdx.y),
                                 [&](int tokens) { return segments_of(tokens, tiles); });
  if (piece.sequence < 0) return;
  const Heads heads(scan.shape, static_cast<int>(blockIdx.x));
  const std::int64_t start = scan.batch.sequence_start[piece.sequence];
  const std::int64_t sequence_end = scan.batch.sequence_start[piece.sequence + 1];
  Segment segment;
  segment.first = start + static_cast<std::int64_t>(piece.index) * tiles.segment_tokens;
  segment.end = min(sequence_end, segment.first + tiles.segment_tokens);

  if (threadIdx.x == 0) {
    for (int s = 0; s < stages; ++s) {
      barrier_init(&shared.full[s], 2);
      barrier_init(&shared.empty[s], scanners / 32);
    }
    barrier_init_fence();
  }
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(sizeof(shared.M) / 16); i += block_threads)
    reinterpret_cast<uint4*>(shared.M)[i] = uint4{};
  __syncthreads();

  if (threadIdx.x >= scanners) {
    give_registers<loader_registers>();
    if (threadIdx.x < scanners + 32) load_segment<N>(shared, scan, maps, heads, segment);
  } else {
    take_registers<scanner_registers>();
    const Lane lane;
    const int index = static_cast<int>(threadIdx.x) / warpgroup;
    const int head = heads.of(index);
    const std::int64_t slot = scan.batch.slots != nullptr ? scan.batch.slots[piece.sequence] : piece.sequence;
    S* slot_state = static_cast<S*>(scan.ssm_state) + (slot * scan.shape.num_heads + head) * (head_dim * N);
    const int parts_before = piece.index * (tiles.segment_tokens / tiles.part_tokens);
    StateFragment<N> state = {};
    if (entries_of(static_cast<int>(sequence_end - start), tiles) == 0) {
      read_state<S, N>(state, slot_state, lane);
    } else {
      combine_parts<N>(state, parts, piece.entries_before, parts_before, scan.shape.num_heads, head, lane);
    }
    scan_segment<T, N>(state, shared, scan, segment, heads, index, lane);
    if (segment.end == sequence_end && index < heads.count) write_state<S, N>(slot_state, state, lane);
  }
#endif
}

template <class T, class S, int N>
void launch(const SsdScan& scan, const SsdTiles& tiles, const SsdMaps& maps, const SsdParts& parts,
            cudaStream_t stream) {
  constexpr int shared_bytes = static_cast<int>(sizeof(SegmentShared<N>)) + panel_atom_bytes;
  auto* kernel = segments_kernel<T, S, N>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        "ssd_scan: shared memory of the second pass");
  const int per_group = scan.shape.num_heads / scan.shape.n_groups;
  const int head_blocks = scan.shape.n_groups * ((per_group + heads_per_block - 1) / heads_per_block);
  const dim3 grid(static_cast<unsigned>(head_blocks), static_cast<unsigned>(tiles.segments_bound));
  kernel<<<grid, block_threads, shared_bytes, stream>>>(scan, tiles, maps, parts);
  check_launch("ssd_scan (second pass)");
}

}  // namespace
}  // namespace ssd

void launch_ssd_segments(const SsdScan& scan, const SsdTiles& tiles, const SsdMaps& maps, const SsdParts& parts,
                         cudaStream_t stream) {
  ssd::with_types(scan, [&](auto element, auto state, auto state_size) {
    ssd::launch<typename decltype(element)::type, typename decltype(state)::type, decltype(state_size)::value>(
        scan, tiles, maps, parts, stream);
  });
}

}  // namespace mamba2::cuda
