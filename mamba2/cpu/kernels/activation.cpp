// Functions of one number over rows: activations, gated or not, and step sizes.
#include "mamba2/cpu/kernels/math.h"
#include "mamba2/cpu/kernels/parts.h"

namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

template <Activation act>
void rows(const ActivationTask& t) {
  for (std::int64_t row = 0; row < t.rows; ++row) {
    const float* const gate = t.gate + row * t.gate_stride;
    const float* const value = t.value == nullptr ? nullptr : t.value + row * t.value_stride;
    float* const out = t.out + row * t.out_stride;
    std::int64_t i = 0;
    for (; i + lanes <= t.width; i += lanes) {
      const Floats activated = activate<act>(load(gate + i));
      store(out + i, value == nullptr ? activated : load(value + i) * activated);
    }
    const std::int64_t rest = t.width - i;
    if (rest == 0) continue;
    const Floats activated = activate<act>(load_some(gate + i, rest));
    store_some(out + i, value == nullptr ? activated : load_some(value + i, rest) * activated, rest);
  }
}

void activation(const ActivationTask& t) {
  with_activation(t.act, [&]<Activation act>() { rows<act>(t); });
}

MAMBA2_INLINE Floats step_size(Floats raw, Floats bias, float low, float high) {
  return minimum(broadcast(high), maximum(broadcast(low), softplus(raw + bias)));
}

void time_step(const TimeStepTask& t) {
  for (std::int64_t row = 0; row < t.rows; ++row) {
    const float* const raw = t.dt_raw + row * t.dt_raw_stride;
    float* const out = t.out + row * t.out_stride;
    std::int64_t i = 0;
    for (; i + lanes <= t.width; i += lanes) store(out + i, step_size(load(raw + i), load(t.bias + i), t.low, t.high));
    const std::int64_t rest = t.width - i;
    if (rest > 0)
      store_some(out + i, step_size(load_some(raw + i, rest), load_some(t.bias + i, rest), t.low, t.high), rest);
  }
}

}  // namespace

void add_activation(Kernels& kernels) {
  kernels.activation = activation;
  kernels.time_step = time_step;
}

}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
