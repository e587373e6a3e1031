#pragma once

#include <cstdint>
#include <span>

namespace mamba2 {

/// How the next token is chosen from its scores, on the device: the repetition penalty; then, where it is sampled,
/// temperature, top_k, top_p and min_p in this order, and a draw.  Meanings, ties and the order of arithmetic are those
/// of generate's processors and samplers.  A plain block of words, as it lies in a tensor of the device.
struct TokenRule {
  std::int32_t samples = 0;      ///< 0: the first of the largest scores
  float repetition_penalty = 1;  ///< 1: none
  float temperature = 1;
  std::int32_t top_k = 0;  ///< 0: all
  float removed_mass = 0;  ///< 1 - top_p; 0: nothing is removed
  float min_p = 0;
  std::uint64_t seed = 0;    ///< key of Philox
  std::uint64_t stream = 0;  ///< upper half of its counter; the lower is the step
};
constexpr std::int64_t token_rule_words = sizeof(TokenRule) / sizeof(std::int32_t);

/// Asks for the token after a sequence's last one.
struct TokenRequest {
  TokenRule rule;
  std::int64_t step = 0;                  ///< tokens of the sequence that were chosen before
  std::span<const std::int32_t> history;  ///< the sequence's tokens, where rule has a repetition penalty
};

/// Stands for a token that was chosen for a sequence, whose id is on the device and need not be known on the host.
inline constexpr std::int32_t chosen_token = -1;

/// What stands in the place of a token where none can be chosen.
enum TokenRefusal : std::int32_t { score_is_nan = -1, all_ruled_out = -2, score_is_infinite = -3 };

}  // namespace mamba2
