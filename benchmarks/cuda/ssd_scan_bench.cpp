#include <fmt/core.h>

#include <cmath>

#include "benchmarks/cuda/bench.h"
#include "mamba2/cuda/device.h"
#include "mamba2/cuda/ssd_scan.h"
#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

constexpr DType dtype = DType::bf16;

struct Workload {
  SsdShape shape;
  int sequences;
  int tokens_each;
};

struct Measured {
  double milliseconds, bytes;
  SsdTiles tiles;
};

Measured measure(const Workload& work) {
  Random random(1);
  const auto tokens = static_cast<std::size_t>(work.sequences) * static_cast<std::size_t>(work.tokens_each);
  const auto width = static_cast<std::size_t>(work.shape.num_heads * work.shape.head_dim);
  const auto shared = static_cast<std::size_t>(work.shape.n_groups * work.shape.state_size);
  const DeviceArray x = random_elements(tokens * width, dtype, random);
  const DeviceArray B = random_elements(tokens * shared, dtype, random),
                    C = random_elements(tokens * shared, dtype, random);
  const DeviceArray dt(log_uniform_values(tokens * static_cast<std::size_t>(work.shape.num_heads), 1e-3, 0.1, random),
                       DType::f32);
  std::vector<double> rates = log_uniform_values(static_cast<std::size_t>(work.shape.num_heads), 1.0, 16.0, random);
  for (double& rate : rates) rate = std::log(rate);
  const DeviceArray A_log(rates, DType::f32), D(normal_values(rates.size(), random), DType::f32);
  const std::size_t states =
      static_cast<std::size_t>(work.sequences) * width * static_cast<std::size_t>(work.shape.state_size);
  const DeviceArray state(std::vector<double>(states, 0.0), DType::f32), out(tokens * width * 2);
  std::vector<std::int32_t> starts;
  for (int s = 0; s <= work.sequences; ++s) starts.push_back(s * work.tokens_each);
  const DeviceArray start(starts);
  SsdScan scan;
  scan.shape = work.shape;
  scan.dtype = dtype;
  scan.x = {x.data(), static_cast<std::int64_t>(width)};
  scan.B = {B.data(), static_cast<std::int64_t>(shared)};
  scan.C = {C.data(), static_cast<std::int64_t>(shared)};
  scan.dt = dt.floats();
  scan.dt_stride = work.shape.num_heads;
  scan.A_log = A_log.floats();
  scan.D = D.floats();
  scan.batch = {start.ints(), nullptr, work.sequences, static_cast<std::int64_t>(tokens)};
  scan.ssm_state = state.data();
  scan.out = {out.data(), static_cast<std::int64_t>(width)};
  const DeviceArray workspace(ssd_scan_workspace(scan));
  const double milliseconds =
      median_milliseconds([&](cudaStream_t stream) { ssd_scan(scan, workspace.data(), stream); });
  const double bytes =
      static_cast<double>(tokens * (2 * width + 2 * shared) * 2 +
                          tokens * static_cast<std::size_t>(work.shape.num_heads) * 4 + 2 * states * 4);
  return {milliseconds, bytes, ssd_tiles(work.shape, scan.batch, current_device().multiprocessors)};
}

void bench(const Workload& work) {
  const Measured measured = measure(work);
  report(fmt::format("ssd_scan {} x {} H{} P{} N{} G{}", work.sequences, work.tokens_each, work.shape.num_heads,
                     work.shape.head_dim, work.shape.state_size, work.shape.n_groups),
         measured.milliseconds, measured.bytes,
         fmt::format("segment {} part {}", measured.tiles.segment_tokens, measured.tiles.part_tokens));
}

constexpr SsdShape shape_2_7b{80, 64, 1, 128};

}  // namespace

LengthRow scan_of_length(int tokens) {
  const Measured measured = measure({shape_2_7b, 1, tokens});
  // A chunk's products for each token of a head: C B^T (for two heads at once), M x, S C and the state's x B^T.
  constexpr double P = 64, N = 128, chunk = ssd_chunk_tokens;
  constexpr double flop = 2 * (chunk * N / 2 + chunk * P + 2 * P * N);
  return {"ssd_scan", tokens, measured.milliseconds, measured.bytes, flop * tokens * shape_2_7b.num_heads};
}

void bench_ssd_scan() {
  for (const int tokens : {512, 1024, 2048, 4096, 8192, 16384, 65536}) bench({shape_2_7b, 1, tokens});
  bench({shape_2_7b, 8, 2048});
  bench({{24, 64, 1, 128}, 1, 4096});
  bench({{80, 64, 1, 64}, 1, 16384});
  bench({{128, 64, 8, 128}, 1, 16384});
}

}  // namespace mamba2::cuda
