#pragma once

#include <array>
#include <cstdint>

namespace mamba2 {

/// Philox4x32-10, a counter-based generator: the same (key, counter) gives the same four words on any machine and in
/// any order.  Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 2> key, std::array<std::uint32_t, 4> counter);

/// A stream of random numbers named by (seed, stream, position); moving along it is adding to a counter.
class Random {
 public:
  explicit Random(std::uint64_t seed, std::uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  std::uint32_t next_u32();
  std::uint64_t next_u64();
  /// In [0, 1) with 53 random bits.
  double uniform();
  /// Mean 0, deviation 1 (Box-Muller).
  double normal();

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
  std::uint64_t position_ = 0;  // words drawn so far
  std::array<std::uint32_t, 4> block_{};
};

}  // namespace mamba2
