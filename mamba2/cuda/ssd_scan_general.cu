// The scan as it is defined, for any shape: token after token, nothing shared with the chunked kernel.
//
// Parallel: sequences x heads x channels.  A warp owns one channel's state (a row of state_size floats) and walks its
// sequence; four warps a block, so that they share the tokens' B and C in L1.
// In registers: a lane keeps elements lane, lane + 32, ... of the row, PerLane of them; rows longer than 32 * 8 lie in
// shared memory instead, since an array with run-time length would go to local memory.
// Streamed: x, B, C, dt of one token at a time; a row's dot product with C is one warp reduction.
// Serial in tokens: time is about a microsecond a token whatever the batch, which is right for odd shapes and short
// prompts and wrong for anything that the tensor core path takes.
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/grid.cuh"
#include "mamba2/cuda/ssd_scan.h"

namespace mamba2::cuda {
namespace {

constexpr int warps_per_block = 4;

/// A lane's part of the state row: in registers.
template <int PerLane>
struct RegisterRow {
  float value[PerLane];
  __device__ RegisterRow(float*, int) {}
  template <class F>
  __device__ __forceinline__ void for_each(int state_size, F&& f) {
#pragma unroll
    for (int i = 0; i < PerLane; ++i) {
      const int n = i * 32 + static_cast<int>(threadIdx.x) % 32;
      if (n < state_size) f(n, value[i]);
    }
  }
};

/// The same in shared memory.
struct SharedRow {
  float* value;
  __device__ SharedRow(float* shared, int state_size) : value(shared + threadIdx.x / 32 * state_size) {}
  template <class F>
  __device__ __forceinline__ void for_each(int state_size, F&& f) {
    for (int n = static_cast<int>(threadIdx.x) % 32; n < state_size; n += 32) f(n, value[n]);
  }
};

template <class T, class S, class Row>
__global__ void __launch_bounds__(32 * warps_per_block) general_kernel(const SsdScan scan) {
  extern __shared__ float shared[];
  const SsdShape& shape = scan.shape;
  const int p = static_cast<int>(blockIdx.x) * warps_per_block + static_cast<int>(threadIdx.x) / 32;
  const int h = static_cast<int>(grid_row() % shape.num_heads);
  const std::int64_t sequence = grid_row() / shape.num_heads;
  if (p >= shape.head_dim || sequence >= scan.batch.sequences) return;
  const int group = h / (shape.num_heads / shape.n_groups);
  const std::int64_t channel = static_cast<std::int64_t>(h) * shape.head_dim + p;
  const std::int64_t slot = scan.batch.slots != nullptr ? scan.batch.slots[sequence] : sequence;
  S* state = static_cast<S*>(scan.ssm_state) + (slot * shape.num_heads * shape.head_dim + channel) * shape.state_size;
  const T* x = static_cast<const T*>(scan.x.data) + channel;
  const T* z = static_cast<const T*>(scan.z.data);
  const T* B = static_cast<const T*>(scan.B.data) + static_cast<std::int64_t>(group) * shape.state_size;
  const T* C = static_cast<const T*>(scan.C.data) + static_cast<std::int64_t>(group) * shape.state_size;
  T* out = static_cast<T*>(scan.out.data) + channel;
  const float A = -expf(scan.A_log[h]);
  const float D = scan.D != nullptr ? scan.D[h * scan.D_head_stride + p * scan.D_channel_stride] : 0.0F;

  Row row(shared, shape.state_size);
  row.for_each(shape.state_size, [&](int n, float& s) { s = as_float(state[n]); });
  const std::int64_t end = scan.batch.sequence_start[sequence + 1];
  for (std::int64_t t = scan.batch.sequence_start[sequence]; t < end; ++t) {
    const float dt = scan.dt[t * scan.dt_stride + h];
    const float decay = expf(dt * A);
    const float x_t = as_float(x[t * scan.x.stride]);
    float y = 0.0F;
    row.for_each(shape.state_size, [&](int n, float& s) {
      s = decay * s + dt * x_t * as_float(B[t * scan.B.stride + n]);
      y += s * as_float(C[t * scan.C.stride + n]);
    });
    y = warp_sum(y) + D * x_t;
    if (z != nullptr) y *= silu(as_float(z[t * scan.z.stride + channel]));
    if (threadIdx.x % 32 == 0) out[t * scan.out.stride] = rounded<T>(y);
  }
  row.for_each(shape.state_size, [&](int n, float& s) { state[n] = rounded<S>(s); });
}

template <class T, class S, class Row>
void launch(const SsdScan& scan, std::size_t shared_bytes, cudaStream_t stream) {
  auto* kernel = general_kernel<T, S, Row>;
  if (shared_bytes > 48U << 10) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          "ssd_scan: shared memory for this state_size");
  }
  const dim3 grid = grid_of_rows((scan.shape.head_dim + warps_per_block - 1) / warps_per_block,
                                 static_cast<std::int64_t>(scan.shape.num_heads) * scan.batch.sequences);
  kernel<<<grid, 32 * warps_per_block, shared_bytes, stream>>>(scan);
  check_launch("ssd_scan (general)");
}

}  // namespace

void ssd_scan_general(const SsdScan& scan, cudaStream_t stream) {
  if (scan.batch.sequences == 0) return;
  const int state_size = scan.shape.state_size;
  with_element_type(scan.dtype, "ssd_scan", [&](auto element) {
    with_element_type(scan.state_dtype, "ssd_scan state", [&](auto state) {
      using T = typename decltype(element)::type;
      using S = typename decltype(state)::type;
      if (state_size <= 32) return launch<T, S, RegisterRow<1>>(scan, 0, stream);
      if (state_size <= 128) return launch<T, S, RegisterRow<4>>(scan, 0, stream);
      if (state_size <= 256) return launch<T, S, RegisterRow<8>>(scan, 0, stream);
      launch<T, S, SharedRow>(scan, sizeof(float) * warps_per_block * static_cast<std::size_t>(state_size), stream);
    });
  });
}

}  // namespace mamba2::cuda
