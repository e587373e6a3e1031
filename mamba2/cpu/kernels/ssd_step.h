#pragma once

#include <math.h>

#include "mamba2/cpu/kernels/state.h"

// The recurrence of one head, token by token.  A token reads and writes the state once, four rows of it at a time, and
// takes the row's product with C while the row is in registers, before it is rounded.
namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

// The state is fetched so many rows ahead (4 KiB at 128 elements in f32), beyond a head's end the next head's: by
// itself the processor stops at every page.  Past the end of memory this does nothing.
constexpr std::int64_t state_rows_ahead = 8;

/// What a token brings to its head.
struct StepInput {
  std::int64_t token;
  float decay, dt;
  const float *x, *B, *C;
  float* y;
};

/// R rows of the state from row p on: S = S decay + dt x B^T; y = S C.
template <StateForm form, int R>
MAMBA2_INLINE void step_rows(const ScanTask& t, const StepInput& in, std::int64_t p) {
  constexpr bool stochastic = form == StateForm::bf16_stochastic;
  Floats sum[R] = {};
  Floats input[R];
  typename StateElement<form>::Type* row[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    input[r] = broadcast(in.dt * in.x[p + r]);
    row[r] = state_row<form>(t, p + r);
  }
  std::uint32_t noise[R][noise_block];
  auto draw_at = [&](std::int64_t n) __attribute__((always_inline)) {
    if (stochastic && n % noise_block == 0)
      for (int r = 0; r < R; ++r) draw_noise(t, in.token, p + r, n / noise_block, noise[r]);
  };
  auto update = [&](int r, Floats before, Floats b, Floats c) __attribute__((always_inline)) {
    const Floats s = fma(input[r], b, before * in.decay);
    sum[r] = fma(s, c, sum[r]);
    return s;
  };
  std::int64_t n = 0;
  for (; n + lanes <= t.state_size; n += lanes) {
    draw_at(n);
    const Floats b = load(in.B + n), c = load(in.C + n);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) __builtin_prefetch(row[r] + n + state_rows_ahead * t.state_stride, 1);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
      store_state<form>(row[r] + n, update(r, load_state(row[r] + n), b, c), noise[r] + n % noise_block);
  }
  const std::int64_t rest = t.state_size - n;
  if (rest > 0) {
    draw_at(n);
    const Floats b = load_some(in.B + n, rest), c = load_some(in.C + n, rest);
    for (int r = 0; r < R; ++r)
      store_state_some<form>(row[r] + n, update(r, load_state_some(row[r] + n, rest), b, c), noise[r] + n % noise_block,
                             rest);
  }
  for (int r = 0; r < R; ++r) in.y[p + r] = sum_of_lanes(sum[r]) + t.D[(p + r) * t.D_step] * in.x[p + r];
}

template <StateForm form>
void ssd_step_in(const ScanTask& t) {
  for (std::int64_t token = 0; token < t.tokens; ++token) {
    const float dt = t.dt[token * t.dt_stride];
    const StepInput in{.token = token,
                       .decay = expf(dt * t.a),
                       .dt = dt,
                       .x = t.x + token * t.x_stride,
                       .B = t.B + token * t.B_stride,
                       .C = t.C + token * t.C_stride,
                       .y = t.out + token * t.out_stride};
    std::int64_t p = 0;
    for (; p + 4 <= t.head_dim; p += 4) step_rows<form, 4>(t, in, p);
    for (; p < t.head_dim; ++p) step_rows<form, 1>(t, in, p);
  }
}

inline void ssd_step(const ScanTask& t) {
  with_state_form(t.state_form, [&]<StateForm form>() { ssd_step_in<form>(t); });
}

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
