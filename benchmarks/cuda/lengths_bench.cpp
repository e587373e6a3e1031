// Time against sequence length: the scan, and the attention that it stands for.
#include <fmt/core.h>

#include <numeric>
#include <vector>

#include "benchmarks/cuda/bench.h"
#include "mamba2/cuda/attention.h"
#include "tests/cuda/support.h"

namespace mamba2::cuda {

LengthRow attention_of_length(int tokens) {
  constexpr int heads = 40, head_dim = 64, width = heads * head_dim;
  Random random(1);
  const auto count = static_cast<std::size_t>(tokens) * width;
  const DeviceArray q = random_elements(count, DType::f32, random), k = random_elements(count, DType::f32, random),
                    v = random_elements(count, DType::f32, random);
  const DeviceArray k_cache(count * sizeof(float)), v_cache(count * sizeof(float)), out(count * sizeof(float));
  std::vector<std::int32_t> places(static_cast<std::size_t>(tokens));
  std::iota(places.begin(), places.end(), 0);
  const DeviceArray start(std::vector<std::int32_t>{0, tokens}), positions(places);
  auto heads_in = [](const DeviceArray& array) { return Heads{static_cast<float*>(array.data()), width, head_dim}; };
  Attention op;
  op.q = heads_in(q);
  op.k = heads_in(k);
  op.v = heads_in(v);
  op.out = heads_in(out);
  op.heads = op.kv_heads = heads;
  op.head_dim = head_dim;
  op.scale = 0.125F;
  op.batch = {start.ints(), nullptr, 1, tokens};
  op.positions = positions.ints();
  op.k_cache = static_cast<float*>(k_cache.data());
  op.v_cache = static_cast<float*>(v_cache.data());
  op.capacity = tokens;
  const double milliseconds = median_milliseconds([&](cudaStream_t stream) {
    append(op, stream);
    attend_tiles(op, stream);
  });
  // q, k and v read, k and v kept, out written; half of the scores and as much again to add up values.
  return {"attention", tokens, milliseconds, 6.0 * sizeof(float) * static_cast<double>(count),
          2.0 * tokens * static_cast<double>(count)};
}

void bench_lengths() {
  for (int tokens = 512; tokens <= 65536; tokens *= 2) report(scan_of_length(tokens));
  for (int tokens = 512; tokens <= 32768; tokens *= 2) report(attention_of_length(tokens));
}

}  // namespace mamba2::cuda
