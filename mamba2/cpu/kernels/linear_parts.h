#pragma once

#include "mamba2/cpu/kernels.h"
#include "mamba2/cpu/kernels/vec.h"

// What the matrix products have in common: how k is cut, and what becomes of the sums.
namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

/// Length of the equal blocks of at most `most` columns that k is cut into; all but the last are multiples of 32, the
/// most that a register takes at a time.
MAMBA2_INLINE std::int64_t block_length(std::int64_t k, std::int64_t most) {
  const std::int64_t blocks = (k + most - 1) / most;
  return blocks <= 1 ? (k < 1 ? 1 : k) : ((k + blocks - 1) / blocks + 31) / 32 * 32;
}

MAMBA2_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}

/// out = sums + bias + add.
template <class Task>
void finish(const Task& t, const float* sums, std::int64_t sums_stride) {
  for (std::int64_t m = 0; m < t.m; ++m) {
    const float* const from = sums + m * sums_stride;
    float* const to = t.out + m * t.out_stride;
    const float* const add = t.add == nullptr ? nullptr : t.add + m * t.add_stride;
    auto finished = [&](Floats value, auto load_it, std::int64_t n) __attribute__((always_inline)) {
      if (t.bias != nullptr) value = value + load_it(t.bias + n);
      if (add != nullptr) value = value + load_it(add + n);
      return value;
    };
    std::int64_t n = 0;
    for (; n + lanes <= t.n; n += lanes)
      store(to + n, finished(
                        load(from + n), [](const float* p) __attribute__((always_inline)) { return load(p); }, n));
    const std::int64_t rest = t.n - n;
    if (rest > 0) {
      auto some = [rest](const float* p) __attribute__((always_inline)) {
        return load_some(p, rest);
      };
      store_some(to + n, finished(some(from + n), some, n), rest);
    }
  }
}

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
