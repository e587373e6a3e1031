// RMS norms, plain and gated: one pass for the sum of squares, one for the scaling; a row lies in L1 between them.
#include <math.h>

#include "mamba2/cpu/kernels/math.h"
#include "mamba2/cpu/kernels/parts.h"

namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

/// Calls body(i, count) for whole registers, with count == lanes known to the compiler, then for the rest.
template <class Whole, class Rest>
MAMBA2_INLINE void for_lanes(std::int64_t width, Whole whole, Rest rest) {
  std::int64_t i = 0;
  for (; i + lanes <= width; i += lanes) whole(i);
  if (i < width) rest(i, width - i);
}

MAMBA2_INLINE float reciprocal_rms(Floats squares, std::int64_t width, float eps) {
  return 1.0F / sqrtf(sum_of_lanes(squares) / static_cast<float>(width) + eps);
}

void rms_norm(const NormTask& t) {
  for (std::int64_t row = 0; row < t.rows; ++row) {
    const float* const x = t.x + row * t.x_stride;
    float* const out = t.out + row * t.out_stride;
    Floats squares{};
    auto add = [&](Floats v) __attribute__((always_inline)) {
      squares = fma(v, v, squares);
    };
    for_lanes(
        t.width, [&](std::int64_t i) __attribute__((always_inline)) { add(load(x + i)); },
        [&](std::int64_t i, std::int64_t n) { add(load_some(x + i, n)); });
    const float scale = reciprocal_rms(squares, t.width, t.eps);
    for_lanes(
        t.width,
        [&](std::int64_t i)
            __attribute__((always_inline)) { store(out + i, load(x + i) * scale * load(t.weight + i)); },
        [&](std::int64_t i, std::int64_t n) {
          store_some(out + i, load_some(x + i, n) * scale * load_some(t.weight + i, n), n);
        });
  }
}

/// out = y silu(z), times weight and the group's scale where there is a weight.  out may be y, so each element is read
/// before it is written.
template <GateOrder order>
MAMBA2_INLINE void norm_group(const float* y, const float* z, const float* weight, std::int64_t width, float eps,
                              float* out) {
  constexpr bool gate_first = order == GateOrder::gate_first;
  Floats squares{};
  auto prepare = [&](Floats yv, Floats zv) __attribute__((always_inline)) {
    const Floats v = gate_first ? yv * silu(zv) : yv;
    squares = fma(v, v, squares);
    return v;
  };
  for_lanes(
      width, [&](std::int64_t i) __attribute__((always_inline)) { store(out + i, prepare(load(y + i), load(z + i))); },
      [&](std::int64_t i, std::int64_t n) {
        store_some(out + i, prepare(load_some(y + i, n), load_some(z + i, n)), n);
      });
  const float scale = reciprocal_rms(squares, width, eps);
  auto finish = [&](Floats v, Floats w, Floats zv) __attribute__((always_inline)) {
    const Floats normed = v * scale * w;
    return gate_first ? normed : normed * silu(zv);
  };
  for_lanes(
      width,
      [&](std::int64_t i)
          __attribute__((always_inline)) { store(out + i, finish(load(out + i), load(weight + i), load(z + i))); },
      [&](std::int64_t i, std::int64_t n) {
        store_some(out + i, finish(load_some(out + i, n), load_some(weight + i, n), load_some(z + i, n)), n);
      });
}

void gate(const float* y, const float* z, std::int64_t width, float* out) {
  for_lanes(
      width, [&](std::int64_t i) __attribute__((always_inline)) { store(out + i, load(y + i) * silu(load(z + i))); },
      [&](std::int64_t i, std::int64_t n) { store_some(out + i, load_some(y + i, n) * silu(load_some(z + i, n)), n); });
}

void gated_rms_norm(const GatedNormTask& t) {
  for (std::int64_t row = 0; row < t.rows; ++row) {
    const float* const y = t.y + row * t.y_stride;
    const float* const z = t.z + row * t.z_stride;
    float* const out = t.out + row * t.out_stride;
    if (t.weight == nullptr) {
      gate(y, z, t.width, out);
      continue;
    }
    for (std::int64_t i = 0; i < t.width; i += t.group_size) {
      if (t.order == GateOrder::gate_first)
        norm_group<GateOrder::gate_first>(y + i, z + i, t.weight + i, t.group_size, t.eps, out + i);
      else
        norm_group<GateOrder::norm_first>(y + i, z + i, t.weight + i, t.group_size, t.eps, out + i);
    }
  }
}

float log_sum_exp(const float* x, std::int64_t count) {
  Floats most = broadcast(x[0]);
  for_lanes(
      count, [&](std::int64_t i) __attribute__((always_inline)) { most = maximum(most, load(x + i)); },
      [&](std::int64_t i, std::int64_t n) {
        for (std::int64_t j = 0; j < n; ++j) most = maximum(most, broadcast(x[i + j]));
      });
  const float largest = max_of_lanes(most);
  Floats sum{};
  float rest = 0.0F;
  for_lanes(
      count, [&](std::int64_t i) __attribute__((always_inline)) { sum = sum + exp(load(x + i) - largest); },
      [&](std::int64_t i, std::int64_t n) {
        for (std::int64_t j = 0; j < n; ++j) rest += expf(x[i + j] - largest);
      });
  return largest + logf(sum_of_lanes(sum) + rest);
}

}  // namespace

void add_norms(Kernels& kernels) {
  kernels.rms_norm = rms_norm;
  kernels.gated_rms_norm = gated_rms_norm;
  kernels.log_sum_exp = log_sum_exp;
}

}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
