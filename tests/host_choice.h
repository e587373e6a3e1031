#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "mamba2/base/random.h"
#include "mamba2/generate/penalties.h"
#include "mamba2/generate/sampler.h"
#include "mamba2/generate/warpers.h"
#include "tests/forwarding_backend.h"

namespace mamba2::test {

/// The token that generate's processors and samplers choose by a rule, or a TokenRefusal.  scores are changed.
inline std::int32_t host_choice(const TokenRule& rule, std::int64_t step, std::span<const std::int32_t> ids,
                                std::span<float> scores) {
  if (std::ranges::any_of(scores, [](float score) { return std::isnan(score); })) return score_is_nan;
  const History history{ids, 0, 1 << 20};
  if (rule.repetition_penalty != 1) repetition_penalty(static_cast<double>(rule.repetition_penalty))(history, scores);
  if (rule.samples == 0) return argmax(scores);
  temperature(static_cast<double>(rule.temperature))(history, scores);
  if (rule.top_k > 0) top_k(rule.top_k)(history, scores);
  if (rule.removed_mass > 0) top_p(1 - static_cast<double>(rule.removed_mass), 1)(history, scores);
  if (rule.min_p > 0) min_p(static_cast<double>(rule.min_p), 1)(history, scores);
  const auto words = philox({static_cast<std::uint32_t>(rule.seed), static_cast<std::uint32_t>(rule.seed >> 32U)},
                            {static_cast<std::uint32_t>(step), 0, static_cast<std::uint32_t>(rule.stream),
                             static_cast<std::uint32_t>(rule.stream >> 32U)});
  const std::uint64_t bits = words[0] | (static_cast<std::uint64_t>(words[1]) << 32U);
  return sample(scores, static_cast<double>(bits >> 11U) * 0x1p-53);
}

/// A backend of the host, with tokens chosen as on a device: in its memory, where the next pass reads them.
class ChoosingBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  bool chooses_tokens() const override { return true; }

 protected:
  using ForwardingBackend::compute;
  void compute(const Embedding& op) override;
  void compute(const ChooseToken& op) override;
};

/// A TokenRefusal has no embedding: NaN, as on a GPU.
inline void ChoosingBackend::compute(const Embedding& op) {
  const std::span ids(op.ids.as<std::int32_t>(), static_cast<std::size_t>(op.ids.elements()));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i);
    const Tensor out = op.out.slice(0, row, 1);
    if (ids[i] >= 0)
      computes().run(Embedding{.ids = op.ids.slice(0, row, 1), .weight = op.weight, .out = out});
    else
      std::fill_n(out.as<float>(), out.elements(), std::numeric_limits<float>::quiet_NaN());
  }
}

inline void ChoosingBackend::compute(const ChooseToken& op) {
  const std::int64_t vocab_size = op.logits.size(1);
  for (std::int64_t i = 0; i < op.logits.size(0); ++i) {
    TokenRule rule;
    std::memcpy(&rule, op.rules[i].data, sizeof(rule));
    std::int32_t& step = op.steps.as<std::int32_t>()[i];
    std::vector<float> scores(static_cast<std::size_t>(vocab_size));
    convert(op.logits[i], Tensor(scores.data(), DType::f32, {vocab_size}));
    std::vector<std::int32_t> history;
    for (std::int64_t h = 0; !op.history.empty() && h < op.history.size(1); ++h)
      if (const std::int32_t id = op.history[i].as<std::int32_t>()[h]; id >= 0) history.push_back(id);
    op.out.as<std::int32_t>()[i] = host_choice(rule, step, history, scores);
    ++step;
  }
  if (op.positions.empty()) return;
  for (std::int64_t i = 0; i < op.positions.elements(); ++i) ++op.positions.as<std::int32_t>()[i];
}

}  // namespace mamba2::test
