#include "mamba2/tokenizer/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/base/json.h"
#include "mamba2/base/log.h"
#include "mamba2/tokenizer/utf8.h"

/// Both kinds are put into the form that their own library writes, a tokenizer.json or a SentencePiece model, and read
/// as one: the checks and the algorithms exist once.
namespace mamba2 {
namespace {

using TokenType = GgufTokenType;

/// Names of pre-tokenizers that split as GPT-2 does.
constexpr std::array<std::string_view, 8> gpt2_splits{"gpt-2", "gpt2", "default", "mpt",
                                                      "olmo",  "jais", "phi-2",   "gpt-neox"};

struct StoredTokens {
  std::vector<std::string_view> texts;
  std::vector<std::int64_t> types;
};

StoredTokens read_tokens(const GgufMetadata& metadata) {
  auto texts = metadata.texts("tokenizer.ggml.tokens");
  require(texts.has_value(), "{}: metadata key 'tokenizer.ggml.tokens' is missing", metadata.source());
  StoredTokens tokens{std::move(*texts), {}};
  require(tokens.texts.size() <= std::numeric_limits<std::int32_t>::max(),
          "{}: 'tokenizer.ggml.tokens' has {} elements", metadata.source(), tokens.texts.size());
  for (std::size_t i = 0; i < tokens.texts.size(); ++i)
    require(is_valid_utf8(tokens.texts[i]), "{}: 'tokenizer.ggml.tokens'[{}] is no UTF-8", metadata.source(), i);
  tokens.types = metadata.integers("tokenizer.ggml.token_type")
                     .value_or(std::vector<std::int64_t>(tokens.texts.size(), TokenType::normal));
  require(tokens.types.size() == tokens.texts.size(),
          "{}: 'tokenizer.ggml.token_type' has {} elements, expected {} as 'tokenizer.ggml.tokens'", metadata.source(),
          tokens.types.size(), tokens.texts.size());
  for (const std::int64_t type : tokens.types)
    require(type >= TokenType::normal && type <= TokenType::byte,
            "{}: 'tokenizer.ggml.token_type' holds {}, expected 1 to 6", metadata.source(), type);
  return tokens;
}

std::string tokenizer_json(const GgufMetadata& metadata) {
  const std::string pre(metadata.text("tokenizer.ggml.pre").value_or("default"));
  if (pre == "default")
    log_warning("{}: tokenizer.ggml.pre does not say how text is split before the merges; taken to be as GPT-2 does",
                metadata.source());
  require(std::find(gpt2_splits.begin(), gpt2_splits.end(), pre) != gpt2_splits.end(),
          "{}: tokenizer.ggml.pre '{}' is not supported, expected one that splits as GPT-2 does; name a tokenizer with "
          "--tokenizer",
          metadata.source(), printable(pre));
  const StoredTokens tokens = read_tokens(metadata);
  const auto merges = metadata.texts("tokenizer.ggml.merges");
  require(merges.has_value(), "{}: metadata key 'tokenizer.ggml.merges' is missing", metadata.source());
  Json vocab = Json::object(), added = Json::array(), pairs = Json::array();
  auto& members = vocab.get_ref<Json::object_t&>();
  for (std::size_t i = 0; i < tokens.texts.size(); ++i) {
    const std::string text(tokens.texts[i]);
    const bool is_control = tokens.types[i] == TokenType::control;
    if (is_control || tokens.types[i] == TokenType::user_defined)
      added.push_back({{"id", i},
                       {"content", text},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", is_control}});
    // ordered_json's operator[] looks through all members first; the reader finds duplicates
    members.Json::object_t::Container::emplace_back(text, i);
  }
  for (const std::string_view merge : *merges) {
    require(is_valid_utf8(merge), "{}: 'tokenizer.ggml.merges' holds what is no UTF-8", metadata.source());
    pairs.push_back(std::string(merge));
  }
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return Json{{"version", "1.0"},
              {"added_tokens", std::move(added)},
              {"pre_tokenizer", byte_level},
              {"decoder", byte_level},
              {"model", {{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", std::move(pairs)}}}}
      .dump();
}

// Protocol buffers: a field is its number and wire type, then a varint, four bytes, or a length and bytes.

void append_varint(std::string& to, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) to += static_cast<char>(value | 0x80);
  to += static_cast<char>(value);
}

void append_integer(std::string& to, std::uint64_t field, std::uint64_t value) {
  append_varint(to, field << 3);
  append_varint(to, value);
}

void append_bytes(std::string& to, std::uint64_t field, std::string_view bytes) {
  append_varint(to, field << 3 | 2);
  append_varint(to, bytes.size());
  to += bytes;
}

void append_float(std::string& to, std::uint64_t field, float value) {
  append_varint(to, field << 3 | 5);
  const auto bits = std::bit_cast<std::uint32_t>(value);
  for (int shift = 0; shift < 32; shift += 8) to += static_cast<char>(bits >> shift & 0xFF);
}

std::string name_of(const GgufMetadata& metadata, const StoredTokens& tokens, std::string_view key) {
  const auto id = metadata.integer(key);
  if (!id) return "";
  require(*id >= 0 && *id < static_cast<std::int64_t>(tokens.texts.size()),
          "{}: metadata key '{}' is {}, expected an index below {}", metadata.source(), key, *id, tokens.texts.size());
  return std::string(tokens.texts[static_cast<std::size_t>(*id)]);
}

/// A SentencePiece ModelProto: pieces (1), trainer_spec (2), normalizer_spec (3).
std::string sentencepiece_model(const GgufMetadata& metadata) {
  const StoredTokens tokens = read_tokens(metadata);
  const auto scores = metadata.numbers("tokenizer.ggml.scores");
  require(scores && scores->size() == tokens.texts.size(),
          "{}: 'tokenizer.ggml.scores' is missing or has not as many elements as 'tokenizer.ggml.tokens', {}",
          metadata.source(), tokens.texts.size());
  std::string model;
  bool has_bytes = false;
  for (std::size_t i = 0; i < tokens.texts.size(); ++i) {
    std::string piece;
    append_bytes(piece, 1, tokens.texts[i]);
    append_float(piece, 2, static_cast<float>((*scores)[i]));
    append_integer(piece, 3, static_cast<std::uint64_t>(tokens.types[i]));
    append_bytes(model, 1, piece);
    has_bytes = has_bytes || tokens.types[i] == TokenType::byte;
  }
  constexpr std::uint64_t bpe = 2;
  std::string trainer, normalizer;
  append_integer(trainer, 3, bpe);
  append_integer(trainer, 35, has_bytes ? 1 : 0);
  constexpr std::array<std::pair<std::uint64_t, std::string_view>, 4> names{{{45, "tokenizer.ggml.unknown_token_id"},
                                                                             {46, "tokenizer.ggml.bos_token_id"},
                                                                             {47, "tokenizer.ggml.eos_token_id"},
                                                                             {48, "tokenizer.ggml.padding_token_id"}}};
  for (const auto& [field, key] : names)
    if (const std::string name = name_of(metadata, tokens, key); !name.empty()) append_bytes(trainer, field, name);
  append_integer(normalizer, 3, metadata.flag("tokenizer.ggml.add_space_prefix").value_or(true) ? 1 : 0);
  append_integer(normalizer, 4, metadata.flag("tokenizer.ggml.remove_extra_whitespaces").value_or(false) ? 1 : 0);
  append_integer(normalizer, 5, 1);
  append_bytes(model, 2, trainer);
  append_bytes(model, 3, normalizer);
  return model;
}

}  // namespace

namespace {

bool holds_tokenizer(const GgufMetadata& metadata) {
  const auto model = metadata.text("tokenizer.ggml.model");
  return metadata.has("tokenizer.huggingface.json") || (model && *model != "no_vocab" && *model != "none");
}

enum class Form { json, sentencepiece };

/// The tokenizer in the form that its own library writes.
std::pair<Form, std::string> tokenizer_file(const GgufMetadata& metadata) {
  const std::string& source = metadata.source();
  require(holds_tokenizer(metadata), "{}: holds no tokenizer; name one with --tokenizer", source);
  if (const auto json = metadata.text("tokenizer.huggingface.json")) return {Form::json, std::string(*json)};
  const std::string_view model = *metadata.text("tokenizer.ggml.model");
  if (model == "gpt2") return {Form::json, tokenizer_json(metadata)};
  require(model == "llama", "{}: tokenizer.ggml.model '{}' is not supported, expected gpt2 or llama", source,
          printable(model));
  return {Form::sentencepiece, sentencepiece_model(metadata)};
}

}  // namespace

std::unique_ptr<const TokenizerBackend> parse_gguf_tokenizer(const GgufMetadata& metadata) {
  const auto [form, bytes] = tokenizer_file(metadata);
  return form == Form::json ? parse_tokenizer_json(bytes, metadata.source())
                            : parse_sentencepiece(bytes, metadata.source());
}

std::map<std::string, std::string> gguf_tokenizer_files(const GgufMetadata& metadata) {
  if (!holds_tokenizer(metadata)) return {};
  auto [form, bytes] = tokenizer_file(metadata);
  const GgufSpecialTokens special = gguf_special_tokens(metadata);
  Json config = Json::object();
  auto set = [&config](const char* field, const auto& value) {
    if (value) config[field] = *value;
  };
  set("bos_token", special.bos);
  set("eos_token", special.eos);
  set("pad_token", special.pad);
  set("unk_token", special.unk);
  set("add_bos_token", special.add_bos);
  set("add_eos_token", special.add_eos);
  config["clean_up_tokenization_spaces"] = false;
  return {{form == Form::json ? "tokenizer.json" : "tokenizer.model", std::move(bytes)},
          {"tokenizer_config.json", config.dump(2) + "\n"}};
}

GgufSpecialTokens gguf_special_tokens(const GgufMetadata& metadata) {
  GgufSpecialTokens special;
  special.add_bos = metadata.flag("tokenizer.ggml.add_bos_token");
  special.add_eos = metadata.flag("tokenizer.ggml.add_eos_token");
  if (!metadata.has("tokenizer.ggml.tokens")) return special;
  const StoredTokens tokens = read_tokens(metadata);
  auto named = [&](std::string_view key) -> std::optional<std::string> {
    std::string name = name_of(metadata, tokens, key);
    if (name.empty()) return std::nullopt;
    return name;
  };
  special.bos = named("tokenizer.ggml.bos_token_id");
  special.eos = named("tokenizer.ggml.eos_token_id");
  special.pad = named("tokenizer.ggml.padding_token_id");
  special.unk = named("tokenizer.ggml.unknown_token_id");
  return special;
}

}  // namespace mamba2
