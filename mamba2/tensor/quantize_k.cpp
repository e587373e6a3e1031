#include <algorithm>
#include <cmath>

#include "mamba2/tensor/quantized.h"

/// How q4_k and q6_k are found.  A group's scale (and min) first comes from a search: round the group on a trial grid,
/// solve for the scale that fits these integers best (weighted least squares), keep the best of some twenty grids. Then
/// the groups' scales are rounded to the block's common unit, which moves them; so for each group the neighbours of the
/// rounded scale are tried too and the one with the least error is kept.
namespace mamba2 {
namespace {

/// Sums run in lanes, which lets the compiler take several elements at a time; the result is the same on every machine
/// of the same rounding.
constexpr std::size_t lanes = 8;
using Lanes = std::array<float, lanes>;

float total(const Lanes& l) {
  return ((l[0] + l[4]) + (l[1] + l[5])) + ((l[2] + l[6]) + (l[3] + l[7]));
}

float sum_of_squares(std::span<const float> x) {
  Lanes sums{};
  for (std::size_t i = 0; i < x.size(); i += lanes)
    for (std::size_t l = 0; l < lanes; ++l) sums[l] += x[i + l] * x[i + l];
  return total(sums);
}

/// The nearest integer within [low, high]: adding 1.5 * 2^23 leaves no bits for a fraction.
inline float nearest(float x, float low, float high) {
  constexpr float no_fraction = 0x1.8p23F;
  const float above = x > low ? x : low;
  return ((above < high ? above : high) + no_fraction) - no_fraction;
}

int nearest_int(float x, int low, int high) {
  return static_cast<int>(nearest(x, static_cast<float>(low), static_cast<float>(high)));
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
  Lanes sums{};
  for (std::size_t i = 0; i < group4; i += lanes)
    for (std::size_t l = 0; l < lanes; ++l) {
      const float q = nearest((x[i + l] + a.min) * inverse, 0, 15);
      const float difference = a.scale * q - a.min - x[i + l];
      sums[l] += weights[i + l] * difference * difference;
    }
  return total(sums);
}

/// The scale and min that fit x best once x is rounded on the trial's grid.
Affine refit(Group4 x, const Weights4& weights, Affine trial) {
  const float inverse = reciprocal_or_zero(trial.scale);
  Lanes w{}, wx{}, wq{}, wqq{}, wxq{};
  for (std::size_t i = 0; i < group4; i += lanes)
    for (std::size_t l = 0; l < lanes; ++l) {
      const float weight = weights[i + l], q = nearest((x[i + l] + trial.min) * inverse, 0, 15);
      w[l] += weight;
      wx[l] += weight * x[i + l];
      wq[l] += weight * q;
      wqq[l] += weight * q * q;
      wxq[l] += weight * x[i + l] * q;
    }
  const float sum_w = total(w), sum_x = total(wx), sum_q = total(wq), sum_qq = total(wqq), sum_xq = total(wxq);
  const float determinant = sum_w * sum_qq - sum_q * sum_q;
  if (determinant <= 0) return trial;
  const Affine fitted{(sum_w * sum_xq - sum_x * sum_q) / determinant, (sum_xq * sum_q - sum_qq * sum_x) / determinant};
  if (fitted.min >= 0 && fitted.scale > 0) return fitted;
  return {sum_qq > 0 ? std::max(0.0F, sum_xq / sum_qq) : 0.0F, 0.0F};
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

using Values6 = std::array<float, group6>;

Values6 rounded(Group6 x, float scale) {
  const float inverse = reciprocal_or_zero(scale);
  Values6 q;
  for (std::size_t i = 0; i < group6; ++i) q[i] = nearest(x[i] * inverse, -32, 31);
  return q;
}

/// Weighted by x^2, as large elements matter more.
float error_of(Group6 x, float scale) {
  const Values6 q = rounded(x, scale);
  Lanes sums{};
  for (std::size_t i = 0; i < group6; i += lanes)
    for (std::size_t l = 0; l < lanes; ++l) {
      const float weighted = x[i + l] * (scale * q[i + l] - x[i + l]);
      sums[l] += weighted * weighted;
    }
  return total(sums);
}

float refit(Group6 x, float trial) {
  const Values6 q = rounded(x, trial);
  Lanes wqq{}, wxq{};
  for (std::size_t i = 0; i < group6; i += lanes)
    for (std::size_t l = 0; l < lanes; ++l) {
      const float xq = x[i + l] * q[i + l];
      wqq[l] += xq * xq;
      wxq[l] += x[i + l] * x[i + l] * xq;
    }
  const float sum = total(wqq);
  return sum > 0 ? total(wxq) / sum : trial;
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
    int scale = nearest_int(found[g].scale * reciprocal_or_zero(d), 0, 63);
    int min = nearest_int(found[g].min * reciprocal_or_zero(dmin), 0, 63);
    auto affine = [d, dmin](int s, int m) { return Affine{d * static_cast<float>(s), dmin * static_cast<float>(m)}; };
    scale = best_neighbour(scale, 0, 63, [&](int s) { return error_of(x, weights, affine(s, min)); });
    min = best_neighbour(min, 0, 63, [&](int m) { return error_of(x, weights, affine(scale, m)); });
    scales.scale[g] = static_cast<std::uint8_t>(scale);
    scales.min[g] = static_cast<std::uint8_t>(min);
    const Affine a = affine(scale, min);
    const float inverse = reciprocal_or_zero(a.scale);
    for (std::size_t i = 0; i < group4; ++i) {
      const int q = nearest_int((x[i] + a.min) * inverse, 0, 15);
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
    const int rounded = nearest_int(found[g] * reciprocal_or_zero(d), -128, 127);
    const int scale = best_neighbour(rounded, -128, 127, [&](int s) { return error_of(x, d * static_cast<float>(s)); });
    block.scales[g] = static_cast<std::int8_t>(scale);
    const float inverse = reciprocal_or_zero(d * static_cast<float>(scale));
    for (std::size_t i = 0; i < group6; ++i) {
      const std::size_t element = g * group6 + i, half = element / 128, in_half = element % 128;
      const int q = nearest_int(x[i] * inverse, -32, 31) + 32;
      std::uint8_t& low = block.low[half * 64 + in_half % 64];
      std::uint8_t& high = block.high[half * 32 + in_half % 32];
      low = static_cast<std::uint8_t>(low | (in_half < 64 ? q & 15 : (q & 15) << 4));
      high = static_cast<std::uint8_t>(high | (q >> 4) << (in_half / 32 * 2));
    }
  }
  return block;
}

}  // namespace mamba2
