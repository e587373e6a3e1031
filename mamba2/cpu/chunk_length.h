#pragma once

#include <cstdint>
#include <initializer_list>

namespace mamba2::cpu {

/// Tokens of a chunk of the scan, a multiple of 16: the one of a few candidates that costs a token and head least.
///
/// A longer chunk has more products inside it (head_dim multiply-adds and an exponential for each earlier token of the
/// chunk, on average half of them), a shorter one passes over the head's state more often (to read it, and to read and
/// write it).  What a pass costs is fitted to the measured curve of docs/performance.md where the state lies in a level
/// 2 cache of that size; from further away it costs about three times as much.
constexpr std::int64_t chunk_length(std::int64_t head_dim, std::int64_t state_size, std::int64_t l2_bytes) {
  constexpr double exponential = 12, from_l2 = 1.2, from_further = 4;  // in multiply-adds
  const auto elements = static_cast<double>(head_dim * state_size);
  const double pass = head_dim * state_size * 4 <= l2_bytes / 2 ? from_l2 : from_further;
  std::int64_t best = 0;
  double least = 0;
  for (const std::int64_t chunk : {16, 32, 48, 64, 96, 128}) {
    const auto length = static_cast<double>(chunk);
    const double cost = (static_cast<double>(head_dim) + exponential) / 2 * length + 3 * pass * elements / length;
    if (best != 0 && cost >= least) continue;
    best = chunk;
    least = cost;
  }
  return best;
}

}  // namespace mamba2::cpu
