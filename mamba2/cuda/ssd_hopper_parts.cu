// First pass of the tensor core scan: what each part of a long sequence adds to its head's state.
//
//   state = sum over j of exp(cum_end - cum_j) dt_j x_j B_j^T      (64 x N)
//
// Parallel: parts x pairs of heads; a warpgroup has a head's state in registers, a third one loads.  Chunks go
// backwards from the part's end, so that decays are counted from there: the sums that matter most are the shortest and
// most exact, and the state is never rescaled, the tensor cores only add to it. Streamed: x (a panel a head) and B
// (shared by both heads) by bulk copies, six stages deep; dt by one warp a head, which turns it into one weight a
// token.  x becomes the A operand in registers, weighted on the way; B is read from shared memory by columns. Bytes: x,
// B and dt once more than a single pass would; so parts cover only what lies before a sequence's last segment.
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/ssd_hopper.cuh"

namespace mamba2::cuda {
namespace ssd {
namespace {

constexpr int stages = 6;
constexpr int block_threads = scanners + warpgroup;  // the last warpgroup loads
// Three warpgroups share 65536 registers: 168 a thread on average.
constexpr int loader_registers = 40, scanner_registers = 232;

template <int N>
struct alignas(panel_atom_bytes) PartStage {
  std::byte B[N / 64][panel_bytes];
  std::byte x[heads_per_block][panel_bytes];
};

template <int N>
struct PartShared {
  PartStage<N> stage[stages];
  float weight[stages][heads_per_block][chunk];
  DtAhead::Buffer dt[heads_per_block];
  float decay[heads_per_block];
  std::uint64_t full[stages], empty[stages], done;
};

/// A part's chunks in the order in which they are taken.
struct Part {
  std::int64_t first;
  int chunks;
  __device__ std::int64_t token(int i) const { return first + static_cast<std::int64_t>(chunks - 1 - i) * chunk; }
};

/// Run by one thread.
template <int N>
__device__ void copy_part(PartShared<N>& shared, const SsdMaps& maps, const Heads& heads, const Part& part) {
  for (int i = 0; i < part.chunks; ++i) {
    const int s = i % stages, token = static_cast<int>(part.token(i));
    PartStage<N>& stage = shared.stage[s];
    barrier_wait(&shared.empty[s], (i / stages + 1) % 2);
    barrier_arrive_expect(&shared.full[s], static_cast<int>(sizeof(PartStage<N>)));
    for (int panel = 0; panel < N / 64; ++panel)
      copy_box(stage.B[panel], &maps.B, heads.group * N + panel * 64, token, &shared.full[s]);
    for (int h = 0; h < heads_per_block; ++h)
      copy_box(stage.x[h], &maps.x, heads.of(h) * head_dim, token, &shared.full[s]);
  }
}

/// Run by one warp for head `index` of the block.
template <int N>
__device__ void weigh_part(PartShared<N>& shared, const SsdScan& scan, int head, int index, const Part& part) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float rate = -expf(scan.A_log[head]) * log2_e;
  DtAhead ahead(shared.dt[index], scan, head);
  auto start = [&](int i) {
    if (i < part.chunks) {
      ahead.start(i, part.token(i), part.token(i) + chunk);
    } else {
      ahead.start_nothing();
    }
  };
  for (int i = 0; i < DtAhead::depth - 1; ++i) start(i);
  float rest = 0.0F;
  for (int i = 0; i < part.chunks; ++i) {
    const int s = i % stages;
    start(i + DtAhead::depth - 1);
    const float2 dt = ahead.finish(i, chunk);
    const float2 sum = running_sum({dt.x * rate, dt.y * rate});
    const float whole = __shfl_sync(0xFFFFFFFFU, sum.y, 31);
    barrier_wait(&shared.empty[s], (i / stages + 1) % 2);
    *reinterpret_cast<float2*>(shared.weight[s][index] + 2 * lane) = {exp2_fast(rest + (whole - sum.x)) * dt.x,
                                                                      exp2_fast(rest + (whole - sum.y)) * dt.y};
    rest += whole;
    barrier_arrive(&shared.full[s]);
  }
  if (lane == 0) {
    shared.decay[index] = rest;
    barrier_arrive(&shared.done);
  }
}

template <class T, int N>
__device__ void add_part(StateFragment<N>& state, PartShared<N>& shared, int head, int chunks, const Lane& lane) {
#pragma unroll 2
  for (int i = 0; i < chunks; ++i) {
    const int s = i % stages;
    PartStage<N>& stage = shared.stage[s];
    barrier_wait(&shared.full[s], i / stages % 2);
    const std::uint64_t B = panel_descriptor(shared_address(stage.B), panel_atom_bytes, panel_bytes);
    std::uint32_t x[chunk / 16][4];
#pragma unroll
    for (int block = 0; block < chunk / 16; ++block) {
      load_transposed(x[block], channel_fragment_address(shared_address(stage.x[head]), lane.warp, block));
      scale_tokens<T>(x[block], x[block], shared.weight[s][head], block * 16 + lane.column);
    }
    wgmma_fence();
#pragma unroll
    for (int block = 0; block < chunk / 16; ++block) {
      const std::uint64_t rows = advanced(B, block * 16 * panel_row_bytes);
      if constexpr (N == 128) {
        wgmma_m64n128k16_by_columns(T(), state, x[block], rows, 1);
      } else {
        wgmma_m64n64k16_by_columns(T(), state, x[block], rows, 1);
      }
    }
    wgmma_commit();
    wgmma_wait<1>();
    if (i > 0) barrier_arrive(&shared.empty[(i - 1) % stages]);
  }
  wgmma_wait<0>();
}

template <class T, class S, int N>
__global__ void __launch_bounds__(block_threads, 1)
    parts_kernel(const SsdScan scan, const SsdTiles tiles, const __grid_constant__ SsdMaps maps, const SsdParts parts) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ std::byte shared_memory[];
  auto& shared = *reinterpret_cast<PartShared<N>*>(
      shared_memory + (panel_atom_bytes - shared_address(shared_memory) % panel_atom_bytes) % panel_atom_bytes);
  wait_for_kernel_before();
  let_next_kernel_start();
  const int entry = static_cast<int>(grid_row());
  const Piece piece = find_piece(scan.batch, tiles, entry, [&](int tokens) { return entries_of(tokens, tiles); });
  if (piece.sequence < 0) return;
  const Heads heads(scan.shape, static_cast<int>(blockIdx.x));
  const std::int64_t start = scan.batch.sequence_start[piece.sequence];
  const int tokens = static_cast<int>(scan.batch.sequence_start[piece.sequence + 1] - start);
  const int before = (piece.index - 1) * tiles.part_tokens;  // tokens of the sequence before this part
  if (before >= (segments_of(tokens, tiles) - 1) * tiles.segment_tokens) return;

  if (threadIdx.x == 0) {
    for (int s = 0; s < stages; ++s) {
      barrier_init(&shared.full[s], full_arrivals);
      barrier_init(&shared.empty[s], scanners);
    }
    barrier_init(&shared.done, heads_per_block);
    barrier_init_fence();
  }
  __syncthreads();

  const int chunks = tiles.part_tokens / chunk;
  if (threadIdx.x >= scanners) {
    give_registers<loader_registers>();
    const int warp = static_cast<int>(threadIdx.x - scanners) / 32;
    const Part part{start + before, chunks};
    if (piece.index == 0) return;
    if (threadIdx.x == scanners) copy_part<N>(shared, maps, heads, part);
    if (warp >= 1 && warp <= heads_per_block) weigh_part<N>(shared, scan, heads.of(warp - 1), warp - 1, part);
  } else {
    take_registers<scanner_registers>();
    const Lane lane;
    const int index = warpgroup_index();
    const int head = heads.of(index);
    StateFragment<N> state = {};
    float decay = 0.0F;
    if (piece.index == 0) {
      const std::int64_t slot = scan.batch.slots != nullptr ? scan.batch.slots[piece.sequence] : piece.sequence;
      const S* initial = static_cast<const S*>(scan.ssm_state) + (slot * scan.shape.num_heads + head) * (head_dim * N);
      read_state<S, N>(state, initial, lane);
    } else {
      add_part<T, N>(state, shared, index, chunks, lane);
      barrier_wait(&shared.done, 0);
      decay = shared.decay[index];
    }
    if (index >= heads.count) return;
    const std::int64_t place = static_cast<std::int64_t>(entry) * scan.shape.num_heads + head;
    write_entry<N>(parts.state + place * (head_dim * N), state, lane);
    if (lane.thread() == 0) parts.decay[place] = decay;
  }
#endif
}

template <class T, class S, int N>
void launch(const SsdScan& scan, const SsdTiles& tiles, const SsdMaps& maps, const SsdParts& parts,
            cudaStream_t stream) {
  constexpr int shared_bytes = static_cast<int>(sizeof(PartShared<N>)) + panel_atom_bytes;
  auto* kernel = parts_kernel<T, S, N>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        "ssd_scan: shared memory of the first pass");
  const int per_group = scan.shape.num_heads / scan.shape.n_groups;
  const int head_blocks = scan.shape.n_groups * ((per_group + heads_per_block - 1) / heads_per_block);
  const dim3 grid = grid_of_rows(head_blocks, tiles.parts_bound);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block_threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, scan, tiles, maps, parts), "ssd_scan (first pass)");
}

}  // namespace
}  // namespace ssd

void launch_ssd_parts(const SsdScan& scan, const SsdTiles& tiles, const SsdMaps& maps, const SsdParts& parts,
                      cudaStream_t stream) {
  ssd::with_types(scan, [&](auto element, auto state, auto state_size) {
    ssd::launch<typename decltype(element)::type, typename decltype(state)::type, decltype(state_size)::value>(
        scan, tiles, maps, parts, stream);
  });
}

}  // namespace mamba2::cuda
