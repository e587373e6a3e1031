// Which tokens the warpers keep, against transformers: ties, flat and sharp distributions, tokens ruled out before.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "mamba2/base/json.h"
#include "mamba2/generate/warpers.h"
#include "tests/generate/formula_scores.h"

namespace mamba2 {
namespace {

/// Cases made by make_warpers.py; MAMBA2_WARPER_CASES names another file of them.
Json cases() {
  const char* other = std::getenv("MAMBA2_WARPER_CASES");
  return read_json_file(other != nullptr ? other : MAMBA2_SOURCE_DIR "/tests/generate/warpers.json");
}

std::vector<float> scores_of(const Json& one) {
  std::vector<float> scores;
  const auto levels = one["levels"].get<double>();
  for (std::int64_t token = 0; token < one["vocab_size"].get<std::int64_t>(); ++token) {
    double share = formula_share(one["seed"].get<std::uint32_t>(), token);
    if (levels > 0) share = std::floor(share * levels) / levels;
    const auto score = static_cast<float>((share - 0.5) * one["spread"].get<double>());
    const bool ruled_out = static_cast<double>(score) < one["ruled_out_below"].get<double>();
    scores.push_back(ruled_out ? -std::numeric_limits<float>::infinity() : score);
  }
  return scores;
}

LogitsProcessor warper_of(const Json& one) {
  const auto name = one["processor"].get<std::string>();
  const auto parameter = one["parameter"].get<double>();
  const auto keep = one["min_tokens_to_keep"].get<std::int64_t>();
  if (name == "top_k") return top_k(static_cast<std::int64_t>(parameter));
  if (name == "top_p") return top_p(parameter, keep);
  if (name == "top_h") return top_h(parameter);
  if (name == "min_p") return min_p(parameter, keep);
  if (name == "typical_p") return typical_p(parameter, keep);
  if (name == "epsilon_cutoff") return epsilon_cutoff(parameter, keep);
  return eta_cutoff(parameter, keep);
}

/// These cut within tokens of equal score, by the order that PyTorch's sort happens to leave them in: it is not stable
/// on every machine.  How many stay is certain.
bool order_of_ties_counts(const Json& one) {
  const auto name = one["processor"].get<std::string>();
  return one["levels"].get<double>() > 0 && (name == "top_p" || name == "top_h");
}

TEST(TransformersWarpers, KeepTheSameTokens) {
  for (const Json& one : cases()) {
    std::vector<float> scores = scores_of(one);
    warper_of(one)({{}, 0, 0}, scores);
    std::vector<std::size_t> kept;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (std::isfinite(scores[i])) kept.push_back(i);
    }
    EXPECT_EQ(kept.size(), one["kept_count"].get<std::size_t>()) << one.dump();
    if (order_of_ties_counts(one)) continue;
    const auto first = one["kept"].get<std::vector<std::size_t>>();
    kept.resize(std::min(kept.size(), first.size()));
    EXPECT_EQ(kept, first) << one.dump();
  }
}

}  // namespace
}  // namespace mamba2
