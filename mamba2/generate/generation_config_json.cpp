// GenerationConfig from and to generation_config.json.

#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/log.h"
#include "mamba2/generate/generation_config.h"
#include "mamba2/generate/generation_fields.h"

namespace mamba2 {

namespace {

/// A value and where it stands, for errors.
struct Field {
  std::string_view source;
  std::string_view name;

  [[noreturn]] void reject(const Json& found, std::string_view expected) const {
    fail("{}: '{}' is {}, expected {}", source, name, printable(found.dump(-1, ' ', true), 60), expected);
  }
};

void read(const Field& field, const Json& json, bool& out) {
  if (!json.is_boolean()) field.reject(json, "true or false");
  out = json.get<bool>();
}

void read(const Field& field, const Json& json, std::int64_t& out) {
  constexpr auto highest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!json.is_number_integer() || (json.is_number_unsigned() && json.get<std::uint64_t>() > highest)) {
    field.reject(json, "an integer");
  }
  out = json.get<std::int64_t>();
}

void read(const Field& field, const Json& json, std::uint64_t& out) {
  if (!json.is_number_unsigned()) field.reject(json, "an integer >= 0");
  out = json.get<std::uint64_t>();
}

void read(const Field& field, const Json& json, std::int32_t& out) {
  std::int64_t wide = 0;
  read(field, json, wide);
  if (wide < std::numeric_limits<std::int32_t>::min() || wide > std::numeric_limits<std::int32_t>::max()) {
    field.reject(json, "a token id");
  }
  out = static_cast<std::int32_t>(wide);
}

void read(const Field& field, const Json& json, double& out) {
  if (!json.is_number()) field.reject(json, "a number");
  out = json.get<double>();
}

void read(const Field& field, const Json& json, EarlyStopping& out) {
  if (json.is_boolean()) {
    out = json.get<bool>() ? EarlyStopping::yes : EarlyStopping::no;
  } else if (json.is_string() && json.get_ref<const std::string&>() == "never") {
    out = EarlyStopping::never;
  } else {
    field.reject(json, "true, false or \"never\"");
  }
}

/// A number stands for a list of one.
void read(const Field& field, const Json& json, std::vector<std::int32_t>& out) {
  if (json.is_array()) {
    for (const Json& element : json) read(field, element, out.emplace_back());
  } else {
    read(field, json, out.emplace_back());
  }
}

void read(const Field& field, const Json& json, std::vector<std::string>& out) {
  const auto read_one = [&](const Json& element) {
    if (!element.is_string()) field.reject(json, "a string or a list of strings");
    out.push_back(element.get<std::string>());
  };
  if (json.is_array()) {
    for (const Json& element : json) read_one(element);
  } else {
    read_one(json);
  }
}

void read(const Field& field, const Json& json, std::vector<std::vector<std::int32_t>>& out) {
  if (!json.is_array()) field.reject(json, "a list of lists of token ids");
  for (const Json& word : json) {
    if (!word.is_array()) field.reject(word, "a list of token ids");
    read(field, word, out.emplace_back());
  }
}

void read(const Field& field, const Json& json, std::vector<SequenceBias>& out) {
  constexpr std::string_view expected = "a list of [[token ids], bias]";
  if (!json.is_array()) field.reject(json, expected);
  for (const Json& pair : json) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_array()) field.reject(pair, expected);
    SequenceBias& entry = out.emplace_back();
    read(field, pair[0], entry.ids);
    read(field, pair[1], entry.bias);
  }
}

void read(const Field& field, const Json& json, ExponentialDecay& out) {
  if (!json.is_array() || json.size() != 2) field.reject(json, "[start, factor]");
  read(field, json[0], out.start);
  read(field, json[1], out.factor);
}

template <class T>
Json write(const T& value) {
  return value;
}

Json write(const EarlyStopping& value) {
  if (value == EarlyStopping::never) return "never";
  return value == EarlyStopping::yes;
}

Json write(const std::vector<SequenceBias>& value) {
  Json list = Json::array();
  for (const SequenceBias& entry : value) list.push_back(Json::array({entry.ids, entry.bias}));
  return list;
}

Json write(const ExponentialDecay& value) {
  return Json::array({value.start, value.factor});
}

/// What transformers would do differently and we do not offer, each with the JSON values that leave it off.
struct Unsupported {
  const char* name;
  const char* off;  // beside null
};
constexpr std::array unsupported{
    Unsupported{"num_beam_groups", "1"},
    Unsupported{"diversity_penalty", "0.0"},
    Unsupported{"penalty_alpha", "0.0"},
    Unsupported{"dola_layers", "null"},
    Unsupported{"constraints", "null"},
    Unsupported{"force_words_ids", "null"},
    Unsupported{"guidance_scale", "1.0"},
    Unsupported{"watermarking_config", "null"},
    Unsupported{"encoder_repetition_penalty", "1.0"},
    Unsupported{"encoder_no_repeat_ngram_size", "0"},
    Unsupported{"prompt_lookup_num_tokens", "null"},
    Unsupported{"assistant_early_exit", "null"},
    Unsupported{"use_mtp", "false"},
    Unsupported{"token_healing", "false"},
    Unsupported{"low_memory", "false"},
};

void refuse_unsupported(const std::string& name, const Json& value, std::string_view source) {
  for (const Unsupported& field : unsupported) {
    if (name != field.name || value.is_null() || value == Json::parse(field.off)) continue;
    fail("{}: '{}' is {}, which is not supported", source, name, printable(value.dump(-1, ' ', true), 60));
  }
}

}  // namespace

GenerationConfig GenerationConfig::from_json(const Json& json, std::string_view source) {
  require(json.is_object(), "{}: expected an object at the top, found {}", source, json.type_name());
  GenerationConfig config;
  for (const auto& [name, value] : json.items()) {
    refuse_unsupported(name, value, source);
    bool known = false;
    for_each_generation_field([&, &key = name, &field = value](const char* candidate, auto member) {
      if (key != candidate) return;
      known = true;
      if (!field.is_null()) read(Field{source, key}, field, (config.*member).emplace());
    });
    if (!known) log_debug("{}: field '{}' is not used", source, printable(name));
  }
  config.validate(source);
  return config;
}

GenerationConfig GenerationConfig::from_folder(const std::string& folder) {
  const std::string path = join_path(folder, "generation_config.json");
  if (!file_exists(path)) return {};
  return from_json(read_json_file(path), path);
}

Json GenerationConfig::to_json() const {
  Json json = Json::object();
  for_each_generation_field([&](const char* name, auto member) {
    if (const auto& value = this->*member) json[name] = write(*value);
  });
  return json;
}

}  // namespace mamba2
