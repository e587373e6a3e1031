#pragma once

#include <math.h>

#include "mamba2/cpu/kernels.h"
#include "mamba2/cpu/kernels/vec.h"

// The recurrence of one head, token by token.  A token reads and writes the state once, four rows of it at a time, and
// takes the row's product with C while the row is in registers.
namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

/// R rows of the state from row p on: S = S decay + dt x B^T; y = S C.
template <int R>
MAMBA2_INLINE void step_rows(const ScanTask& t, std::int64_t p, float decay, float dt, const float* x, const float* B,
                             const float* C, float* y) {
  Floats sum[R] = {};
  Floats input[R];
  float* row[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    input[r] = broadcast(dt * x[p + r]);
    row[r] = t.state + (p + r) * t.state_stride;
  }
  std::int64_t n = 0;
  for (; n + lanes <= t.state_size; n += lanes) {
    const Floats b = load(B + n), c = load(C + n);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Floats s = fma(input[r], b, load(row[r] + n) * decay);
      store(row[r] + n, s);
      sum[r] = fma(s, c, sum[r]);
    }
  }
  const std::int64_t rest = t.state_size - n;
  if (rest > 0) {
    const Floats b = load_some(B + n, rest), c = load_some(C + n, rest);
    for (int r = 0; r < R; ++r) {
      const Floats s = fma(input[r], b, load_some(row[r] + n, rest) * decay);
      store_some(row[r] + n, s, rest);
      sum[r] = fma(s, c, sum[r]);
    }
  }
  for (int r = 0; r < R; ++r) y[p + r] = sum_of_lanes(sum[r]) + t.D[(p + r) * t.D_step] * x[p + r];
}

inline void ssd_step(const ScanTask& t) {
  for (std::int64_t token = 0; token < t.tokens; ++token) {
    const float dt = t.dt[token * t.dt_stride], decay = expf(dt * t.a);
    const float* const x = t.x + token * t.x_stride;
    const float *const B = t.B + token * t.B_stride, *const C = t.C + token * t.C_stride;
    float* const y = t.out + token * t.out_stride;
    std::int64_t p = 0;
    for (; p + 4 <= t.head_dim; p += 4) step_rows<4>(t, p, decay, dt, x, B, C, y);
    for (; p < t.head_dim; ++p) step_rows<1>(t, p, decay, dt, x, B, C, y);
  }
}

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
