// Second pass of the tensor core scan: outputs and final states, one chunk of 64 tokens after the other.
//
//   y^T (channels x tokens) = e_i (S C^T) + x^T M^T + D x^T,   M_ij = (C_i . B_j) dt_j exp(cum_i - cum_j) for j <= i
//   S = e_end S + (w x)^T B,     e_i = exp(cum_i),  w_j = dt_j exp(cum_end - cum_j)
//
// Parallel: segments x pairs of heads; four warpgroups with a role each.  Two scan: each keeps its head's state in
// registers over the whole segment, f32 as accumulator, and rounded as the A operand of S C^T; x^T is the A operand of
// the other two products.  One makes M: C B^T is shared by the heads of a group, so it is computed once for the pair; M
// goes to shared memory up to two chunks ahead of use.  One loads: a thread starts bulk copies of x, B, C three chunks
// deep (x further ahead into L2), a warp a head turns dt into decays. M takes a column's decay from tables as a product
// of two factors where its band of 16 rows lies below the diagonal, and an exponential an entry on it; D is added to
// its diagonal. y^T goes out transposed through a panel of its own and a bulk copy; the last chunk of a sequence, and a
// gated one, by ordinary stores. Why 64 tokens: a chunk costs 64 x 64 entries of M and 2 x 64 x 64 x 64 products a head
// that grow with its length, against 4 x 64 x 64 x 128 that do not.  Exponents are differences of sums, never positive,
// so nothing overflows.
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/ssd_hopper.cuh"

namespace mamba2::cuda {
namespace ssd {
namespace {

constexpr int stages = 3;
constexpr int block_threads = scanners + 2 * warpgroup;
// Four warpgroups share 65536 registers: 128 a thread on average.
constexpr int scanner_registers = 192, maker_registers = 88, loader_registers = 40;

// Rows of M that one warp writes; columns before them take their decay from tables, as a product of two factors.
constexpr int band = 16;
constexpr int bands = chunk / band;

/// What becomes of a head's dt.
struct Decays {
  float cumulative[chunk];  // log2
  float dt[chunk];
  float from_start[chunk];                 // to the token, its own included
  float from_band[chunk];                  // from the first token of its band
  float to_end[chunk];                     // times dt
  float to_band[bands - 1][chunk - band];  // [b][j]: from token j < 16 (b + 1) to the first one of band b + 1, times dt
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
  std::byte out[heads_per_block][panel_bytes];
  Decays decays[stages][heads_per_block];
  DtAhead::Buffer dt[heads_per_block];
  std::uint64_t full[stages], empty[stages];
  std::uint64_t M_full[2], M_empty[2];
};

/// The block's run of tokens.
struct Segment {
  std::int64_t first, end;
  __device__ int chunks() const { return static_cast<int>((end - first + chunk - 1) / chunk); }
  /// Tokens of chunk c.
  __device__ int valid(int c) const { return static_cast<int>(min(end - first - c * chunk, std::int64_t{chunk})); }
};

/// Run by one thread.
template <int N>
__device__ void copy_segment(SegmentShared<N>& shared, const SsdMaps& maps, const Heads& heads,
                             const Segment& segment) {
  constexpr int prefetch_distance = 3;  // chunks beyond the one being copied
  const int chunks = segment.chunks();
  for (int i = 0; i < chunks; ++i) {
    const int s = i % stages, token = static_cast<int>(segment.first) + i * chunk;
    SegmentStage<N>& stage = shared.stage[s];
    if (i + prefetch_distance < chunks) {
      for (int h = 0; h < heads.count; ++h)
        prefetch_box(&maps.x, heads.of(h) * head_dim, token + prefetch_distance * chunk);
    }
    barrier_wait(&shared.empty[s], (i / stages + 1) % 2);
    barrier_arrive_expect(&shared.full[s], static_cast<int>(sizeof(SegmentStage<N>)));
    for (int panel = 0; panel < N / 64; ++panel) {
      copy_box(stage.B[panel], &maps.B, heads.group * N + panel * 64, token, &shared.full[s]);
      copy_box(stage.C[panel], &maps.C, heads.group * N + panel * 64, token, &shared.full[s]);
    }
    for (int h = 0; h < heads_per_block; ++h)
      copy_box(stage.x[h], &maps.x, heads.of(h) * head_dim, token, &shared.full[s]);
  }
}

/// Fills in a chunk's decays; each lane has tokens 2 lane and 2 lane + 1.
__device__ void write_decays(Decays& decays, float2 dt, float rate) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float2 sum = running_sum({dt.x * rate, dt.y * rate});
  const float whole = __shfl_sync(0xFFFFFFFFU, sum.y, 31);
  const float band_start = __shfl_sync(0xFFFFFFFFU, sum.x, lane / (band / 2) * (band / 2));
  auto put = [lane](float* to, float first, float second) {
    *reinterpret_cast<float2*>(to + 2 * lane) = {first, second};
  };
  put(decays.cumulative, sum.x, sum.y);
  put(decays.dt, dt.x, dt.y);
  put(decays.from_start, exp2_fast(sum.x), exp2_fast(sum.y));
  put(decays.from_band, exp2_fast(sum.x - band_start), exp2_fast(sum.y - band_start));
  put(decays.to_end, exp2_fast(whole - sum.x) * dt.x, exp2_fast(whole - sum.y) * dt.y);
#pragma unroll
  for (int b = 1; b < bands; ++b) {
    const float start = __shfl_sync(0xFFFFFFFFU, sum.x, b * (band / 2));
    if (lane < b * (band / 2))
      put(decays.to_band[b - 1], exp2_fast(start - sum.x) * dt.x, exp2_fast(start - sum.y) * dt.y);
  }
}

/// Run by one warp for head `index` of the block.
template <int N>
__device__ void prepare_decays(SegmentShared<N>& shared, const SsdScan& scan, int head, int index,
                               const Segment& segment) {
  const float rate = -expf(scan.A_log[head]) * log2_e;
  const int chunks = segment.chunks();
  DtAhead ahead(shared.dt[index], scan, head);
  auto start = [&](int i) {
    if (i < chunks) {
      ahead.start(i, segment.first + static_cast<std::int64_t>(i) * chunk, segment.end);
    } else {
      ahead.start_nothing();
    }
  };
  for (int i = 0; i < DtAhead::depth - 1; ++i) start(i);
  for (int i = 0; i < chunks; ++i) {
    const int s = i % stages;
    start(i + DtAhead::depth - 1);
    const float2 dt = ahead.finish(i, segment.valid(i));
    barrier_wait(&shared.empty[s], (i / stages + 1) % 2);
    write_decays(shared.decays[s][index], dt, rate);
    barrier_arrive(&shared.full[s]);
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

template <class T, int N>
__device__ void multiply_CB(float (&CB)[32], const SegmentStage<N>& stage) {
  const std::uint64_t C = panel_descriptor(shared_address(stage.C), panel_atom_bytes, panel_bytes);
  const std::uint64_t B = panel_descriptor(shared_address(stage.B), panel_atom_bytes, panel_bytes);
#pragma unroll
  for (int k = 0; k < N / 16; ++k) {
    const int bytes = k / 4 * panel_bytes + k % 4 * 32;
    wgmma_m64n64k16(T(), CB, advanced(C, bytes), advanced(B, bytes), k > 0);
  }
}

/// One head's M from C B^T, rows of band Band; what lies right of it stays zero.  D: the skip that goes on the
/// diagonal.
template <class T, int Band>
__device__ void write_band(std::byte* M, const float (&CB)[32], const Decays& decays, float D, const Lane& lane) {
  const int i0 = band * Band + lane.row, i1 = i0 + 8;
  const float to0 = decays.from_band[i0], to1 = decays.from_band[i1];
  auto put = [&](int piece, float a, float b, float c, float d) {
    std::byte* at = M + panel_offset(i0, piece) + 2 * lane.column;
    *reinterpret_cast<std::uint32_t*>(at) = packed(a, b, T());
    *reinterpret_cast<std::uint32_t*>(at + panel_atom_bytes) = packed(c, d, T());
  };
#pragma unroll
  for (int piece = 0; piece < 2 * Band; ++piece) {
    const float2 from = *reinterpret_cast<const float2*>(&decays.to_band[Band - 1][8 * piece + lane.column]);
    put(piece, CB[4 * piece] * from.x * to0, CB[4 * piece + 1] * from.y * to0, CB[4 * piece + 2] * from.x * to1,
        CB[4 * piece + 3] * from.y * to1);
  }
  const float cum0 = decays.cumulative[i0], cum1 = decays.cumulative[i1];
  auto entry = [D](float cb, int i, int j, float cum_i, float cum_j, float dt_j) {
    const float value = cb * dt_j * exp2_fast(cum_i - cum_j);
    return j < i ? value : (j == i ? value + D : 0.0F);
  };
#pragma unroll
  for (int piece = 2 * Band; piece < 2 * Band + 2; ++piece) {
    const int j = 8 * piece + lane.column;
    const float2 cum = *reinterpret_cast<const float2*>(decays.cumulative + j);
    const float2 dt = *reinterpret_cast<const float2*>(decays.dt + j);
    put(piece, entry(CB[4 * piece], i0, j, cum0, cum.x, dt.x), entry(CB[4 * piece + 1], i0, j + 1, cum0, cum.y, dt.y),
        entry(CB[4 * piece + 2], i1, j, cum1, cum.x, dt.x), entry(CB[4 * piece + 3], i1, j + 1, cum1, cum.y, dt.y));
  }
}

/// Each warp a band; their code differs, so that none of it branches.
template <class T>
__device__ void write_M(std::byte* M, const float (&CB)[32], const Decays& decays, float D, const Lane& lane) {
  static_assert(bands == 4);
  switch (lane.warp) {
    case 0: return write_band<T, 0>(M, CB, decays, D, lane);
    case 1: return write_band<T, 1>(M, CB, decays, D, lane);
    case 2: return write_band<T, 2>(M, CB, decays, D, lane);
    default: return write_band<T, 3>(M, CB, decays, D, lane);
  }
}

/// Run by one warpgroup: M of every chunk, for both heads.
template <class T, int N>
__device__ void make_M(SegmentShared<N>& shared, const SsdScan& scan, const Heads& heads, const Segment& segment) {
  const Lane lane;
  float D[heads_per_block] = {};
  if (scan.D != nullptr && scan.D_channel_stride == 0) {
    for (int h = 0; h < heads_per_block; ++h) D[h] = scan.D[heads.of(h) * scan.D_head_stride];
  }
  const int chunks = segment.chunks();
  for (int c = 0; c < chunks; ++c) {
    const int s = c % stages;
    float CB[32];
    barrier_wait(&shared.full[s], c / stages % 2);
    wgmma_fence();
    multiply_CB<T, N>(CB, shared.stage[s]);
    wgmma_commit();
    wgmma_wait<0>();
    barrier_wait(&shared.M_empty[c % 2], (c / 2 + 1) % 2);
#pragma unroll
    for (int h = 0; h < heads_per_block; ++h) write_M<T>(shared.M[c % 2][h], CB, shared.decays[s][h], D[h], lane);
    fence_async_proxy();
    barrier_arrive(&shared.M_full[c % 2]);
    barrier_arrive(&shared.empty[s]);
  }
}

/// y^T = S C^T with S rounded.
template <class T, int N>
__device__ void multiply_state(float (&y)[32], const std::uint32_t (&S)[N / 16][4], const SegmentStage<N>& stage) {
  const std::uint64_t C = panel_descriptor(shared_address(stage.C), panel_atom_bytes, panel_bytes);
#pragma unroll
  for (int k = 0; k < N / 16; ++k) wgmma_m64n64k16(T(), y, S[k], advanced(C, k / 4 * panel_bytes + k % 4 * 32), k > 0);
}

/// y^T = e_i y^T
__device__ __forceinline__ void decay_rows(float (&y)[32], const float* from_start, const Lane& lane) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 e = *reinterpret_cast<const float2*>(from_start + 8 * i + lane.column);
    y[4 * i] *= e.x;
    y[4 * i + 1] *= e.y;
    y[4 * i + 2] *= e.x;
    y[4 * i + 3] *= e.y;
  }
}

/// y^T += D x^T with a D a channel; where a head has one D, it is in M.
template <class T>
__device__ void add_skip(float (&y)[32], const std::uint32_t (&x)[4][4], const float* D, const Lane& lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float skip = D[16 * lane.warp + lane.row + 8 * half];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 value = unpacked(x[i / 2][i % 2 * 2 + half], T());
      y[4 * i + 2 * half] += skip * value.x;
      y[4 * i + 2 * half + 1] += skip * value.y;
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

/// Rounds y^T and turns it, into rows of tokens.
template <class T>
__device__ void turn_out(std::byte* panel, const float (&y)[32], const Lane& lane) {
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    std::uint32_t pairs[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) pairs[r] = packed(y[8 * block + 2 * r], y[8 * block + 2 * r + 1], T());
    store_transposed(channel_fragment_address(shared_address(panel), lane.warp, block), pairs);
  }
}

/// Writes the valid tokens' rows, gated where there is a gate.
template <class T>
__device__ void write_rows(const std::byte* panel, const SsdScan& scan, std::int64_t token, int valid, int head,
                           const Lane& lane) {
  const int piece = lane.thread() % 8;
  const std::int64_t channel = static_cast<std::int64_t>(head) * head_dim + piece * 8;
  for (int i = lane.thread() / 8; i < valid; i += warpgroup / 8) {
    uint4 row = load_vector(panel + panel_offset(i, piece));
    if (scan.z.data != nullptr) {
      float y[8], z[8];
      unpack_vector<T>(y, row);
      unpack_vector<T>(z, load_vector(static_cast<const T*>(scan.z.data) + (token + i) * scan.z.stride + channel));
#pragma unroll
      for (int e = 0; e < 8; ++e) y[e] *= silu(z[e]);
      row = pack_vector<T>(y);
    }
    store_vector(static_cast<T*>(scan.out.data) + (token + i) * scan.out.stride + channel, row);
  }
}

template <class T, int N>
__device__ void scan_segment(StateFragment<N>& state, SegmentShared<N>& shared, const SsdScan& scan,
                             const SsdMaps& maps, const Segment& segment, const Heads& heads, int index,
                             const Lane& lane) {
  const int head = heads.of(index);
  const bool stored = index < heads.count;
  const int chunks = segment.chunks();
  for (int c = 0; c < chunks; ++c) {
    const int s = c % stages;
    const int valid = segment.valid(c);
    SegmentStage<N>& stage = shared.stage[s];
    const Decays& decays = shared.decays[s][index];
    std::uint32_t S[N / 16][4], x[4][4], weighted[4][4];
    float y[32];
#pragma unroll
    for (int k = 0; k < N / 16; ++k) {
#pragma unroll
      for (int r = 0; r < 4; ++r) S[k][r] = packed(state[8 * k + 2 * r], state[8 * k + 2 * r + 1], T());
    }
    barrier_wait(&shared.full[s], c / stages % 2);
    if (valid < chunk) clear_rows(stage, valid);
    const float whole = decays.from_start[chunk - 1];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) state[i] *= whole;
    wgmma_fence();
    multiply_state<T, N>(y, S, stage);
    wgmma_commit();

#pragma unroll
    for (int block = 0; block < 4; ++block)
      load_transposed(x[block], channel_fragment_address(shared_address(stage.x[index]), lane.warp, block));
    wgmma_wait<0>();
#pragma unroll
    for (int block = 0; block < 4; ++block)
      scale_tokens<T>(weighted[block], x[block], decays.to_end, block * 16 + lane.column);
    decay_rows(y, decays.from_start, lane);
    if (scan.D_channel_stride != 0) add_skip<T>(y, x, scan.D + head * scan.D_head_stride, lane);
    barrier_wait(&shared.M_full[c % 2], c / 2 % 2);
    wgmma_fence();
    multiply_M<T>(y, x, shared.M[c % 2][index]);
    wgmma_commit();
    add_to_state<T, N>(state, weighted, stage);
    wgmma_commit();

    if (lane.thread() == 0) wait_stores_read();
    wgmma_wait<1>();
    barrier_arrive(&shared.M_empty[c % 2]);
    named_barrier(2 + index, warpgroup);
    turn_out<T>(shared.out[index], y, lane);
    fence_async_proxy();
    named_barrier(2 + index, warpgroup);
    const std::int64_t token = segment.first + static_cast<std::int64_t>(c) * chunk;
    if (valid < chunk || scan.z.data != nullptr) {
      write_rows<T>(shared.out[index], scan, token, stored ? valid : 0, head, lane);
    } else if (stored && lane.thread() == 0) {
      store_box(&maps.out, head * head_dim, static_cast<int>(token), shared.out[index]);
    }
    wgmma_wait<0>();
    barrier_arrive(&shared.empty[s]);
  }
  if (lane.thread() == 0) wait_stores_read();
}

/// The state that enters a segment: what the sequence started from, and the parts before it.
template <int N>
__device__ void combine_parts(StateFragment<N>& state, const SsdParts& parts, int first_entry, int parts_before,
                              int num_heads, int head, const Lane& lane) {
#pragma unroll 2
  for (int entry = first_entry; entry <= first_entry + parts_before; ++entry) {
    const std::int64_t place = static_cast<std::int64_t>(entry) * num_heads + head;
    add_entry<N>(state, parts.state + place * (head_dim * N), exp2_fast(parts.decay[place]), lane);
  }
}

template <class T, class S, int N>
__global__ void __launch_bounds__(block_threads, 1)
    segments_kernel(const SsdScan scan, const SsdTiles tiles, const __grid_constant__ SsdMaps maps,
                    const SsdParts parts) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ std::byte shared_memory[];
  auto& shared = *reinterpret_cast<SegmentShared<N>*>(
      shared_memory + (panel_atom_bytes - shared_address(shared_memory) % panel_atom_bytes) % panel_atom_bytes);
  const Piece piece = find_piece(scan.batch, tiles, static_cast<int>(grid_row()),
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
      barrier_init(&shared.full[s], full_arrivals);
      barrier_init(&shared.empty[s], scanners + warpgroup);
    }
    for (int m = 0; m < 2; ++m) {
      barrier_init(&shared.M_full[m], warpgroup);
      barrier_init(&shared.M_empty[m], scanners);
    }
    barrier_init_fence();
  }
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(sizeof(shared.M) / 16); i += block_threads)
    reinterpret_cast<uint4*>(shared.M)[i] = uint4{};
  __syncthreads();

  const int index = warpgroup_index();
  if (index == heads_per_block + 1) {
    give_registers<loader_registers>();
    const int warp = static_cast<int>(threadIdx.x) % warpgroup / 32;
    if (threadIdx.x % warpgroup == 0) copy_segment<N>(shared, maps, heads, segment);
    if (warp >= 1 && warp <= heads_per_block) prepare_decays<N>(shared, scan, heads.of(warp - 1), warp - 1, segment);
  } else if (index == heads_per_block) {
    give_registers<maker_registers>();
    make_M<T, N>(shared, scan, heads, segment);
  } else {
    take_registers<scanner_registers>();
    const Lane lane;
    const int head = heads.of(index);
    const std::int64_t slot = scan.batch.slots != nullptr ? scan.batch.slots[piece.sequence] : piece.sequence;
    S* slot_state = static_cast<S*>(scan.ssm_state) + (slot * scan.shape.num_heads + head) * (head_dim * N);
    const int parts_before = piece.index * (tiles.segment_tokens / tiles.part_tokens);
    StateFragment<N> state = {};
    wait_for_kernel_before();
    let_next_kernel_start();
    if (entries_of(static_cast<int>(sequence_end - start), tiles) == 0) {
      read_state<S, N>(state, slot_state, lane);
    } else {
      combine_parts<N>(state, parts, piece.entries_before, parts_before, scan.shape.num_heads, head, lane);
    }
    scan_segment<T, N>(state, shared, scan, maps, segment, heads, index, lane);
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
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid_of_rows(head_blocks, tiles.segments_bound);
  config.blockDim = block_threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = tiles.parts_bound > 0 ? 1 : 0;  // the first pass lets this one start early
  check(cudaLaunchKernelEx(&config, kernel, scan, tiles, maps, parts), "ssd_scan (second pass)");
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
