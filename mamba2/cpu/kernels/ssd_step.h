#pragma once

#include <math.h>

#include "mamba2/cpu/kernels/state.h"

// The recurrence of one head, token by token.  A token reads and writes the state once and takes a row's product with C
// while the row is in registers, before it is rounded.  The state passes in the order of its addresses: the processor
// follows one stream by itself, several rows side by side cost it a third of its bandwidth.
namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

// The state is fetched so far ahead, beyond a head's end the next head's: by itself the processor stops at every page.
// Past the end of memory this does nothing.
constexpr std::int64_t state_bytes_ahead = 4096;

/// What a token brings to its head.
struct StepInput {
  std::int64_t token;
  float decay, dt;
  const float *x, *B, *C;
  float* y;
};

/// Row p of the state: S = S decay + dt x B^T; y = S C.
template <StateForm form>
MAMBA2_INLINE void step_row(const ScanTask& t, const StepInput& in, std::int64_t p) {
  const Floats input = broadcast(in.dt * in.x[p]);
  auto* const row = state_row<form>(t, p);
  std::uint32_t noise[noise_block];
  auto draw_at = [&](std::int64_t n) __attribute__((always_inline)) {
    if (form == StateForm::bf16_stochastic && n % noise_block == 0) draw_noise(t, in.token, p, n / noise_block, noise);
  };
  Floats sum{};
  auto update = [&](Floats before, Floats b, Floats c) __attribute__((always_inline)) {
    const Floats s = fma(input, b, before * in.decay);
    sum = fma(s, c, sum);
    return s;
  };
  std::int64_t n = 0;
  for (; n + lanes <= t.state_size; n += lanes) {
    draw_at(n);
    __builtin_prefetch(reinterpret_cast<const char*>(row + n) + state_bytes_ahead, 1);
    store_state<form>(row + n, update(load_state(row + n), load(in.B + n), load(in.C + n)), noise + n % noise_block);
  }
  const std::int64_t rest = t.state_size - n;
  if (rest > 0) {
    draw_at(n);
    const Floats b = load_some(in.B + n, rest), c = load_some(in.C + n, rest);
    store_state_some<form>(row + n, update(load_state_some(row + n, rest), b, c), noise + n % noise_block, rest);
  }
  in.y[p] = sum_of_lanes(sum) + t.D[p * t.D_step] * in.x[p];
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
    for (std::int64_t p = 0; p < t.head_dim; ++p) step_row<form>(t, in, p);
  }
}

inline void ssd_step(const ScanTask& t) {
  with_state_form(t.state_form, [&]<StateForm form>() { ssd_step_in<form>(t); });
}

}  // namespace
}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
