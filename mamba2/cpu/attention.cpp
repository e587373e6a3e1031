#include <algorithm>
#include <cmath>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/cpu/context.h"

namespace mamba2::cpu {
namespace {

/// Which sequence each token belongs to.
std::vector<std::int32_t> sequence_of_token(const Batch& batch) {
  const auto* start = batch.sequence_start.as<std::int32_t>();
  std::vector<std::int32_t> sequence(static_cast<std::size_t>(batch.tokens));
  for (std::int64_t s = 0; s < batch.sequences; ++s)
    std::fill(sequence.begin() + start[s], sequence.begin() + start[s + 1], static_cast<std::int32_t>(s));
  return sequence;
}

/// theta for a sequence of that many tokens: dynamic scaling raises it past the trained length.
double theta_for(const RopeParameters& parameters, std::int64_t length) {
  if (parameters.scaling != RopeScaling::dynamic || length <= parameters.max_position_embeddings)
    return parameters.theta;
  const auto dim = static_cast<double>(parameters.rotary_dim);
  const double stretch = static_cast<double>(length) / static_cast<double>(parameters.max_position_embeddings);
  return parameters.theta * std::pow(parameters.factor * stretch - (parameters.factor - 1), dim / (dim - 2));
}

/// How far the pairs of a head turn with each position.  In double: a float's position times frequency would be off by
/// a large part of a turn for long sequences.
std::vector<double> frequencies(std::int64_t rotary_dim, double theta) {
  std::vector<double> found(static_cast<std::size_t>(rotary_dim / 2));
  for (std::size_t i = 0; i < found.size(); ++i)
    found[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
  return found;
}

/// Turns all heads of one token.
void turn(const Tensor& x, std::int64_t token, const std::vector<double>& of_pairs, double position) {
  const auto half = static_cast<std::int64_t>(of_pairs.size());
  float* const heads = x.as<float>() + token * x.stride(0);
  for (std::int64_t i = 0; i < half; ++i) {
    const double angle = position * of_pairs[static_cast<std::size_t>(i)];
    const auto cosine = static_cast<float>(std::cos(angle)), sine = static_cast<float>(std::sin(angle));
    for (std::int64_t h = 0; h < x.size(1); ++h) {
      float* const head = heads + h * x.stride(1);
      const float low = head[i], high = head[i + half];
      head[i] = low * cosine - high * sine;
      head[i + half] = high * cosine + low * sine;
    }
  }
}

float* head_row(const Tensor& tensor, std::int64_t i, std::int64_t j) {
  return tensor.as<float>() + i * tensor.stride(0) + j * tensor.stride(1);
}
float* cache_row(const Tensor& cache, std::int64_t slot, std::int64_t position, std::int64_t head) {
  return head_row(cache, slot, position) + head * cache.stride(2);
}

void append(const Attention& op, std::int64_t slot, std::int64_t token, std::int64_t position) {
  const std::int64_t head_dim = op.q.size(2);
  for (std::int64_t h = 0; h < op.k.size(1); ++h) {
    std::copy_n(head_row(op.k, token, h), head_dim, cache_row(op.k_cache, slot, position, h));
    std::copy_n(head_row(op.v, token, h), head_dim, cache_row(op.v_cache, slot, position, h));
  }
}

}  // namespace

void rope(Context& context, const Rope& op) {
  if (op.x.size(0) == 0) return;
  const auto *start = op.batch.sequence_start.as<std::int32_t>(), *positions = op.batch.positions.as<std::int32_t>();
  const std::vector<std::int32_t> sequence = sequence_of_token(op.batch);
  // Of each sequence where its length counts, else the same for all.
  const bool dynamic = op.parameters.scaling == RopeScaling::dynamic;
  std::vector<std::vector<double>> of_sequences;
  for (std::int64_t s = 0; s < (dynamic ? op.batch.sequences : 1); ++s) {
    const std::int64_t length = dynamic && start[s + 1] > start[s] ? std::int64_t{positions[start[s + 1] - 1]} + 1 : 0;
    of_sequences.push_back(frequencies(op.parameters.rotary_dim, theta_for(op.parameters, length)));
  }
  context.pool.parallel_for(op.x.size(0), 8, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t t = begin; t < end; ++t) {
      const auto s = static_cast<std::size_t>(dynamic ? sequence[static_cast<std::size_t>(t)] : 0);
      const double position = positions[t];
      turn(op.x, t, of_sequences[s],
           op.parameters.scaling == RopeScaling::linear ? position / op.parameters.factor : position);
    }
  });
}

void attention(Context& context, const Attention& op) {
  require(op.k_cache.dtype == DType::f32, "Attention: k_cache is {}, the cpu backend keeps it in f32",
          name(op.k_cache.dtype));
  const auto *slots = op.batch.slots.as<std::int32_t>(), *positions = op.batch.positions.as<std::int32_t>();
  const std::vector<std::int32_t> sequence = sequence_of_token(op.batch);
  const std::int64_t tokens = op.q.size(0), heads = op.q.size(1), heads_a_key = heads / op.k.size(1);
  auto slot_of = [&](std::int64_t token) { return slots[sequence[static_cast<std::size_t>(token)]]; };
  for (std::int64_t t = 0; t < tokens; ++t) {
    require(positions[t] >= 0 && positions[t] < op.k_cache.size(1),
            "Attention: position {} is outside the cache of {} positions", positions[t], op.k_cache.size(1));
    append(op, slot_of(t), t, positions[t]);
  }
  context.pool.parallel_for(tokens * heads, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t t = i / heads, h = i % heads;
      context.kernels.attention({.q = head_row(op.q, t, h),
                                 .k = cache_row(op.k_cache, slot_of(t), 0, h / heads_a_key),
                                 .v = cache_row(op.v_cache, slot_of(t), 0, h / heads_a_key),
                                 .k_stride = op.k_cache.stride(1),
                                 .v_stride = op.v_cache.stride(1),
                                 .count = std::int64_t{positions[t]} + 1,
                                 .head_dim = op.q.size(2),
                                 .scale = static_cast<float>(op.scale),
                                 .out = head_row(op.out, t, h)});
    }
  });
}

}  // namespace mamba2::cpu
