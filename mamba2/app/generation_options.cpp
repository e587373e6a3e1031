#include "mamba2/app/generation_options.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"
#include "mamba2/generate/generation_config.h"

namespace mamba2::app {
namespace {

/// A field with an option of one value, which is JSON.
struct FieldOption {
  const char* field;
  const char* group;
  const char* type;
  const char* help;
  const char* short_name = "";
};

constexpr FieldOption field_options[] = {
    {"max_new_tokens", "Length", "INT", "At most so many new tokens", ",-n"},
    {"max_length", "Length", "INT", "At most so many tokens, the prompt's among them"},
    {"min_new_tokens", "Length", "INT", "No end before so many new tokens"},
    {"min_length", "Length", "INT", "No end before so many tokens, the prompt's among them"},
    {"max_time", "Length", "SECONDS", "Stop after so many seconds"},
    {"seed", "Sampling", "INT", "Equal seeds give equal texts; none: another one every time", ",-s"},
    {"temperature", "Sampling", "FLOAT", "Below 1 likely tokens become likelier, above 1 less so"},
    {"top_k", "Sampling", "INT", "Choose among the k likeliest tokens; 0: all"},
    {"top_p", "Sampling", "FLOAT", "Choose among the likeliest tokens that together have probability p"},
    {"top_h", "Sampling", "FLOAT", "Choose among the likeliest tokens up to this share of the entropy"},
    {"min_p", "Sampling", "FLOAT", "Choose among tokens of at least p times the likeliest one's probability"},
    {"typical_p", "Sampling", "FLOAT", "Choose among the most typical tokens that together have probability p"},
    {"epsilon_cutoff", "Sampling", "FLOAT", "Choose among tokens of at least this probability"},
    {"eta_cutoff", "Sampling", "FLOAT", "The same, lowered where the entropy is high"},
    {"num_return_sequences", "Sampling", "INT", "Texts for each prompt"},
    {"num_beams", "Beams", "INT", "Beams of a beam search; 1: none"},
    {"length_penalty", "Beams", "FLOAT", "Exponent of the length that a beam's score is divided by"},
    {"repetition_penalty", "Penalties", "FLOAT", "Above 1 tokens that are there already become less likely"},
    {"no_repeat_ngram_size", "Penalties", "INT", "No n tokens in a row twice; 0: off"},
    {"bad_words_ids", "Penalties", "[[ID,...],...]", "Token sequences never to generate"},
    {"sequence_bias", "Penalties", "[[[ID,...],FLOAT],...]", "Numbers to add to the scores of token sequences"},
    {"forced_bos_token_id", "Tokens", "ID", "The first new token"},
    {"bos_token_id", "Tokens", "ID", "What an empty prompt stands for"},
    {"pad_token_id", "Tokens", "ID", "Padding"},
};

/// Fields that are a list of token ids: 1,2,3 or [1, 2, 3].
constexpr FieldOption list_options[] = {
    {"eos_token_id", "Tokens", "ID,...", "Any of them ends the text"},
    {"forced_eos_token_id", "Tokens", "ID,...", "The last token where the length ends the text"},
    {"suppress_tokens", "Tokens", "ID,...", "Never generated"},
    {"begin_suppress_tokens", "Tokens", "ID,...", "Not generated as the first new token"},
};

constexpr FieldOption flag_options[] = {
    {"do_sample", "Sampling", "", "Choose tokens at random by their probabilities, not always the likeliest"},
    {"renormalize_logits", "Penalties", "", "Make scores log probabilities again after all penalties"},
    {"remove_invalid_values", "Penalties", "", "Replace NaN and infinity among the logits"},
};

std::string dashed(std::string field) {
  std::replace(field.begin(), field.end(), '_', '-');
  return "--" + field;
}

/// The default as --help shows it; empty where there is none.
std::string shown_default(const std::string& field) {
  if (field == "max_new_tokens") return std::to_string(default_new_tokens);
  const Json defaults = GenerationConfig::defaults().to_json();
  return defaults.contains(field) ? defaults[field].dump() : "";
}

Json parse_value(const std::string& option, const std::string& text, const char* type) {
  try {
    return parse_json(text, option);
  } catch (const Error&) {
    throw CLI::ValidationError(option, fmt::format("'{}' is not of the form {}", printable(text, 60), type));
  }
}

void add_lists(CLI::App& command, Json& fields) {
  command
      .add_option_function<std::vector<std::string>>(
          "--exponential-decay-length-penalty",
          [&fields](const std::vector<std::string>& value) {
            Json& pair = fields["exponential_decay_length_penalty"] = Json::array();
            for (const std::string& number : value)
              pair.push_back(parse_value("--exponential-decay-length-penalty", number, "START FACTOR"));
          },
          "From START new tokens on the end becomes likelier by FACTOR a token")
      ->expected(2)
      ->type_name("START FACTOR")
      ->group("Length");
  command
      .add_option_function<std::vector<std::string>>(
          "--stop,--stop-strings",
          [&fields](const std::vector<std::string>& strings) { fields["stop_strings"] = strings; },
          "End when this text was generated; may be given several times")
      ->allow_extra_args(false)
      ->group("Length");
}

}  // namespace

void add_generation_options(CLI::App& command, Json& fields) {
  for (const FieldOption& option : field_options) {
    const std::string name = dashed(option.field);
    command
        .add_option_function<std::string>(
            name + option.short_name,
            [&fields, name, option](const std::string& text) {
              fields[option.field] = parse_value(name, text, option.type);
            },
            option.help)
        ->type_name(option.type)
        ->default_str(shown_default(option.field))
        ->group(option.group);
  }
  for (const FieldOption& option : list_options) {
    const std::string name = dashed(option.field);
    command
        .add_option_function<std::string>(
            name,
            [&fields, name, option](const std::string& text) {
              fields[option.field] = parse_value(name, text.starts_with('[') ? text : "[" + text + "]", option.type);
            },
            option.help)
        ->type_name(option.type)
        ->group(option.group);
  }
  for (const FieldOption& option : flag_options)
    command
        .add_flag_function(
            dashed(option.field), [&fields, option](std::int64_t count) { fields[option.field] = count > 0; },
            option.help)
        ->group(option.group);
  command
      .add_option_function<std::string>(
          "--early-stopping",
          [&fields](const std::string& value) {
            fields["early_stopping"] = value == "never" ? Json(value) : Json(value == "true");
          },
          "Stop as soon as num_beams texts are finished (alone: true), or only when none can get better (never)")
      ->check(CLI::IsMember({"true", "false", "never"}))
      ->default_str("false")
      ->group("Beams");
  add_lists(command, fields);
}

std::vector<std::string> complete_early_stopping(std::vector<std::string> arguments) {
  const std::vector<std::string> values = {"true", "false", "never"};
  for (std::size_t i = 0; i < arguments.size() && arguments[i] != "--"; ++i) {
    const bool has_value =
        i + 1 < arguments.size() && std::find(values.begin(), values.end(), arguments[i + 1]) != values.end();
    if (arguments[i] == "--early-stopping" && !has_value) arguments[i] += "=true";
  }
  return arguments;
}

}  // namespace mamba2::app
