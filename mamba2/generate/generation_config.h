#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/base/json.h"

namespace mamba2 {

struct Mamba2Config;

/// When beam search ends: heuristically when no running beam can beat the worst finished one (no), as soon as num_beams
/// are finished (yes), or only when no running beam could ever win (never).
enum class EarlyStopping : std::uint8_t { no, yes, never };

/// Added to the score of the last token of ids wherever the others precede it.
struct SequenceBias {
  std::vector<std::int32_t> ids;
  double bias = 0;
};

/// From `start` generated tokens on, the end tokens' scores grow by |score| * (factor^k - 1), k = 1, 2, ...
struct ExponentialDecay {
  std::int64_t start = 0;
  double factor = 1;
};

/// How to generate; fields, meanings and defaults are those of transformers' GenerationConfig (5.17), seed is ours.  A
/// field that is not set takes the value of the next source: what the caller sets goes before generation_config.json,
/// that before config.json's token ids, those before defaults().
struct GenerationConfig {
  // length, counted in tokens; max_length and min_length include the prompt
  std::optional<std::int64_t> max_length;  ///< where neither this nor max_new_tokens is set: 20 new tokens
  std::optional<std::int64_t> max_new_tokens;
  std::optional<std::int64_t> min_length;
  std::optional<std::int64_t> min_new_tokens;
  std::optional<double> max_time;  ///< seconds
  std::optional<std::vector<std::string>> stop_strings;

  // strategy
  std::optional<bool> do_sample;
  std::optional<std::int64_t> num_beams;
  std::optional<std::int64_t> num_return_sequences;
  std::optional<EarlyStopping> early_stopping;
  std::optional<double> length_penalty;
  std::optional<std::uint64_t> seed;  ///< not set: one from the system

  // scores of the next token
  std::optional<double> temperature;
  std::optional<std::int64_t> top_k;
  std::optional<double> top_p;
  std::optional<double> top_h;
  std::optional<double> min_p;
  std::optional<double> typical_p;
  std::optional<double> epsilon_cutoff;
  std::optional<double> eta_cutoff;
  std::optional<double> repetition_penalty;
  std::optional<std::int64_t> no_repeat_ngram_size;
  std::optional<std::vector<std::vector<std::int32_t>>> bad_words_ids;
  std::optional<std::vector<SequenceBias>> sequence_bias;
  std::optional<std::int32_t> forced_bos_token_id;
  std::optional<std::vector<std::int32_t>> forced_eos_token_id;
  std::optional<ExponentialDecay> exponential_decay_length_penalty;
  std::optional<std::vector<std::int32_t>> suppress_tokens;
  std::optional<std::vector<std::int32_t>> begin_suppress_tokens;
  std::optional<bool> remove_invalid_values;
  std::optional<bool> renormalize_logits;

  // special tokens
  std::optional<std::int32_t> bos_token_id;
  std::optional<std::int32_t> pad_token_id;
  std::optional<std::vector<std::int32_t>> eos_token_id;  ///< set and empty: none ends the text

  /// Reads a generation_config.json; source is its name for errors.  Throws Error naming the field for a wrong type, a
  /// value out of range, and a field that would change the result but is not supported; unknown ones are debug lines.
  static GenerationConfig from_json(const Json& json, std::string_view source);
  /// generation_config.json of a folder; nothing is set where the folder has none.
  static GenerationConfig from_folder(const std::string& folder);
  /// The token ids of a model's config.
  static GenerationConfig from_model_config(const Mamba2Config& config);
  /// transformers' defaults; max_length is not among them, see above.
  static const GenerationConfig& defaults();

  /// What is set, as generation_config.json.
  Json to_json() const;
  /// Takes over every field that is set in other and not set here.
  void fill_from(const GenerationConfig& other);
  /// Throws Error, starting with source where that is not empty, for a value out of range or values that exclude each
  /// other.
  void validate(std::string_view source = {}) const;
};

/// Prompt and new tokens together may be so many.  Throws Error where the prompt is as long already.
std::int64_t max_length_for(const GenerationConfig& config, std::int64_t prompt_length);

}  // namespace mamba2
