#include "mamba2/cuda/round_states.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>

#include "mamba2/cuda/check.h"
#include "mamba2/ops/ops.h"
#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

/// As StateRounding::stochastic says, of element n of row p of a head.
double rounded(double value, int N, int p, int n, int head, int position, unsigned layer) {
  const auto words = philox({state_rounding_key[0], state_rounding_key[1]},
                            {static_cast<std::uint32_t>(8 * (p * ((N + 63) / 64) + n / 64) + n % 16 / 2),
                             static_cast<std::uint32_t>(head), static_cast<std::uint32_t>(position), layer});
  const std::uint32_t word = words[static_cast<std::size_t>(n % 64 / 16)];
  const std::uint32_t chance = n % 2 == 0 ? word & 0xFFFFU : word >> 16U;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(static_cast<float>(value)) + chance;
  return static_cast<double>(std::bit_cast<float>(bits & 0xFFFF0000U));
}

TEST(RoundStates, RoundsByTheChanceThatTheOpSaysAndLeavesStatesWithoutTokens) {
  Random random(1);
  for (const SsdShape shape : {SsdShape{2, 64, 1, 128}, SsdShape{3, 5, 1, 7}, SsdShape{1, 3, 1, 65}}) {
    const int P = shape.head_dim, N = shape.state_size, size = shape.num_heads * P * N;
    constexpr unsigned layer = 9;
    const std::vector<std::int32_t> start{0, 3, 3, 4}, slots{2, 0, 3}, positions{10, 11, 12, 700};
    const std::vector<double> before =
        rounded_to(normal_values(static_cast<std::size_t>(4 * size), random), DType::bf16);
    const DeviceArray states(before, DType::bf16), start_on_device(start), slots_on_device(slots), at(positions);
    const DeviceArray copy(static_cast<std::size_t>(3 * size) * sizeof(float));
    const StatesByChance op{.shape = shape,
                            .batch = {start_on_device.ints(), slots_on_device.ints(), 3, 4},
                            .positions = at.ints(),
                            .layer = layer,
                            .states = states.data(),
                            .copy = static_cast<float*>(copy.data())};
    widen_states(op, nullptr);
    const std::vector<double> widened = copy.download(DType::f32);
    for (int s = 0; s < 3; ++s)
      for (int i = 0; i < size; ++i)
        ASSERT_EQ(widened[static_cast<std::size_t>(s * size + i)],
                  before[static_cast<std::size_t>(slots[static_cast<std::size_t>(s)] * size + i)]);

    const std::vector<double> scanned =
        rounded_to(normal_values(static_cast<std::size_t>(3 * size), random), DType::f32);
    const std::vector<std::byte> bytes = encode(scanned, DType::f32);
    check(cudaMemcpy(copy.data(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "upload");
    round_states(op, nullptr);
    std::vector<double> want = before;
    for (const int s : {0, 2})
      for (int i = 0; i < size; ++i) {
        const int position = positions[static_cast<std::size_t>(start[static_cast<std::size_t>(s) + 1] - 1)];
        want[static_cast<std::size_t>(slots[static_cast<std::size_t>(s)] * size + i)] =
            rounded(scanned[static_cast<std::size_t>(s * size + i)], N, i / N % P, i % N, i / (N * P), position, layer);
      }
    EXPECT_EQ(states.download(DType::bf16), want);
  }
}

}  // namespace
}  // namespace mamba2::cuda
