#include <algorithm>
#include <cmath>

#include "mamba2/tensor/quantized.h"

/// How q4_k and q6_k are found.  A group's scale (and min) first comes from a search: round the group on a trial grid,
/// solve for the scale that fits these integers best (weighted least squares), keep the best of some twenty grids. Then
/// the groups' scales are rounded to the block's common unit, which moves them; so for each group the neighbours of the
/// rounded scale are tried too and the one with the least error is kept.
namespace mamba2 {
namespace {

float sum_of_squares(std::span<const float> x) {
  float sum = 0;
  for (const float value : x) sum += value * value;
  return sum;
}

int nearest(float x, int low, int high) {
  return static_cast<int>(std::lround(std::clamp(x, static_cast<float>(low), static_cast<float>(high))));
}

float reciprocal_or_zero(float x) {
  const float inverse = x == 0.0F ? 0.0F : 1.0F / x;
  return std::isfinite(inverse) ? inverse : 0.0F;
}

// q4_k: x = scale q - min, q in [0, 15], scale and min >= 0

constexpr std::size_t group4 = 32;
using Group4 = std::span<const float, group4>;
using Weights4 = std::array<float, group4>;

struct Affine {
  float scale = 0, min = 0;
};

/// Large elements matter more: a product's error grows with them.
Weights4 weights_of(Group4 x) {
  Weights4 weights;
  const float rms = std::sqrt(sum_of_squares(x) / static_cast<float>(group4));
  for (std::size_t i = 0; i < group4; ++i) weights[i] = rms + std::abs(x[i]);
  return weights;
}

float error_of(Group4 x, const Weights4& weights, Affine a) {
  const float inverse = reciprocal_or_zero(a.scale);
  float sum = 0;
  for (std::size_t i = 0; i < group4; ++i) {
    const auto q = static_cast<float>(nearest((x[i] + a.min) * inverse, 0, 15));
    const float difference = a.scale * q - a.min - x[i];
    sum += weights[i] * difference * difference;
  }
  return sum;
}

/// The scale and min that fit x best once x is rounded on the trial's grid.
Affine refit(Group4 x, const Weights4& weights, Affine trial) {
  const float inverse = reciprocal_or_zero(trial.scale);
  float w = 0, wx = 0, wq = 0, wqq = 0, wxq = 0;
  for (std::size_t i = 0; i < group4; ++i) {
    const auto q = static_cast<float>(nearest((x[i] + trial.min) * inverse, 0, 15));
    w += weights[i];
    wx += weights[i] * x[i];
    wq += weights[i] * q;
    wqq += weights[i] * q * q;
    wxq += weights[i] * x[i] * q;
  }
  const float determinant = w * wqq - wq * wq;
  if (determinant <= 0) return trial;
  const Affine fitted{(w * wxq - wx * wq) / determinant, (wxq * wq - wqq * wx) / determinant};
  if (fitted.min >= 0 && fitted.scale > 0) return fitted;
  return {wqq > 0 ? std::max(0.0F, wxq / wqq) : 0.0F, 0.0F};
}

Affine search(Group4 x, const Weights4& weights) {
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  const float min = std::min(*low, 0.0F), range = *high - min;
  if (range <= 0) return {0, -min};  // all elements equal and none above 0
  Affine best{range / 15.0F, -min};
  float least = error_of(x, weights, best);
  for (int step = 0; step <= 20; ++step) {
    const float levels = 14.0F + 0.1F * static_cast<float>(step);
    const Affine fitted = refit(x, weights, {range / levels, -min});
    const float error = error_of(x, weights, fitted);
    if (error < least) {
      least = error;
      best = fitted;
    }
  }
  return best;
}

// q6_k: x = scale q, q in [-32, 31], scale of either sign

constexpr std::size_t group6 = 16;
using Group6 = std::span<const float, group6>;

/// Weighted by x^2, as large elements matter more.
float error_of(Group6 x, float scale) {
  const float inverse = reciprocal_or_zero(scale);
  float sum = 0;
  for (const float value : x) {
    const float difference = scale * static_cast<float>(nearest(value * inverse, -32, 31)) - value;
    sum += value * value * difference * difference;
  }
  return sum;
}

float refit(Group6 x, float trial) {
  const float inverse = reciprocal_or_zero(trial);
  float wqq = 0, wxq = 0;
  for (const float value : x) {
    const auto q = static_cast<float>(nearest(value * inverse, -32, 31));
    wqq += value * value * q * q;
    wxq += value * value * value * q;
  }
  return wqq > 0 ? wxq / wqq : trial;
}

float search(Group6 x) {
  const float extreme =
      *std::max_element(x.begin(), x.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
  if (extreme == 0.0F) return 0;
  float best = extreme / -32.0F, least = error_of(x, best);
  for (int step = -9; step <= 9; ++step) {
    const float fitted = refit(x, extreme / -(32.0F + 0.1F * static_cast<float>(step)));
    const float error = error_of(x, fitted);
    if (error < least) {
      least = error;
      best = fitted;
    }
  }
  return best;
}

/// Of the integers around `start` within [low, high], the one for which error(i) is least.
template <class Error>
int best_neighbour(int start, int low, int high, Error&& error) {
  int best = start;
  float least = error(start);
  for (const int candidate : {start - 1, start + 1}) {
    if (candidate < low || candidate > high) continue;
    if (const float found = error(candidate); found < least) {
      least = found;
      best = candidate;
    }
  }
  return best;
}

}  // namespace

std::array<std::uint8_t, 12> pack_scales(const ScalesK& scales) {
  std::array<std::uint8_t, 12> packed;
  for (std::size_t g = 0; g < 4; ++g) {
    packed[g] = static_cast<std::uint8_t>(scales.scale[g] | (scales.scale[g + 4] >> 4 << 6));
    packed[g + 4] = static_cast<std::uint8_t>(scales.min[g] | (scales.min[g + 4] >> 4 << 6));
    packed[g + 8] = static_cast<std::uint8_t>((scales.scale[g + 4] & 15) | (scales.min[g + 4] & 15) << 4);
  }
  return packed;
}

BlockQ4K quantize_q4_k(std::span<const float, 256> from) {
  constexpr std::size_t groups = 8;
  std::array<Affine, groups> found;
  Affine largest;
  for (std::size_t g = 0; g < groups; ++g) {
    const Group4 x(from.data() + g * group4, group4);
    found[g] = search(x, weights_of(x));
    largest = {std::max(largest.scale, found[g].scale), std::max(largest.min, found[g].min)};
  }
  BlockQ4K block{to_f16(largest.scale / 63.0F), to_f16(largest.min / 63.0F), {}, {}};
  const float d = to_float(block.d), dmin = to_float(block.dmin);
  ScalesK scales;
  for (std::size_t g = 0; g < groups; ++g) {
    const Group4 x(from.data() + g * group4, group4);
    const Weights4 weights = weights_of(x);
    int scale = nearest(found[g].scale * reciprocal_or_zero(d), 0, 63);
    int min = nearest(found[g].min * reciprocal_or_zero(dmin), 0, 63);
    auto affine = [d, dmin](int s, int m) { return Affine{d * static_cast<float>(s), dmin * static_cast<float>(m)}; };
    scale = best_neighbour(scale, 0, 63, [&](int s) { return error_of(x, weights, affine(s, min)); });
    min = best_neighbour(min, 0, 63, [&](int m) { return error_of(x, weights, affine(scale, m)); });
    scales.scale[g] = static_cast<std::uint8_t>(scale);
    scales.min[g] = static_cast<std::uint8_t>(min);
    const Affine a = affine(scale, min);
    const float inverse = reciprocal_or_zero(a.scale);
    for (std::size_t i = 0; i < group4; ++i) {
      const int q = nearest((x[i] + a.min) * inverse, 0, 15);
      std::uint8_t& both = block.q[g / 2 * 32 + i];
      both = static_cast<std::uint8_t>(both | (g % 2 == 0 ? q : q << 4));
    }
  }
  block.scales = pack_scales(scales);
  return block;
}

BlockQ6K quantize_q6_k(std::span<const float, 256> from) {
  constexpr std::size_t groups = 16;
  std::array<float, groups> found;
  for (std::size_t g = 0; g < groups; ++g) found[g] = search(Group6(from.data() + g * group6, group6));
  const float extreme =
      *std::max_element(found.begin(), found.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
  // the extreme becomes -128, which is a step further out than 127
  BlockQ6K block{{}, {}, {}, to_f16(extreme / -128.0F)};
  const float d = to_float(block.d);
  for (std::size_t g = 0; g < groups; ++g) {
    const Group6 x(from.data() + g * group6, group6);
    const int rounded = nearest(found[g] * reciprocal_or_zero(d), -128, 127);
    const int scale = best_neighbour(rounded, -128, 127, [&](int s) { return error_of(x, d * static_cast<float>(s)); });
    block.scales[g] = static_cast<std::int8_t>(scale);
    const float inverse = reciprocal_or_zero(d * static_cast<float>(scale));
    for (std::size_t i = 0; i < group6; ++i) {
      const std::size_t element = g * group6 + i, half = element / 128, in_half = element % 128;
      const int q = nearest(x[i] * inverse, -32, 31) + 32;
      std::uint8_t& low = block.low[half * 64 + in_half % 64];
      std::uint8_t& high = block.high[half * 32 + in_half % 32];
      low = static_cast<std::uint8_t>(low | (in_half < 64 ? q & 15 : (q & 15) << 4));
      high = static_cast<std::uint8_t>(high | (q >> 4) << (in_half / 32 * 2));
    }
  }
  return block;
}

}  // namespace mamba2
