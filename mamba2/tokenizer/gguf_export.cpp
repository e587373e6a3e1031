#include "mamba2/tokenizer/gguf_export.h"

#include <algorithm>
#include <map>
#include <optional>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/log.h"
#include "mamba2/tokenizer/gguf_tokenizer.h"
#include "mamba2/tokenizer/json_field.h"
#include "mamba2/tokenizer/sentencepiece_file.h"
#include "mamba2/tokenizer/tokenizer.h"
#include "mamba2/tokenizer/tokenizer_file.h"

namespace mamba2 {
namespace {

struct WrittenTokens {
  std::vector<std::string> texts;
  std::vector<std::int32_t> types;
  std::vector<float> scores;
};

/// With a token that no text gives at every id.
WrittenTokens unused_tokens(std::int64_t vocab_size) {
  constexpr float least_score = -10000;
  WrittenTokens tokens;
  for (std::int64_t i = 0; i < vocab_size; ++i) tokens.texts.push_back(fmt::format("[PAD{}]", i));
  tokens.types.assign(tokens.texts.size(), GgufTokenType::unused);
  tokens.scores.assign(tokens.texts.size(), least_score);
  return tokens;
}

void check_vocab_size(std::int64_t tokens, std::int64_t vocab_size, std::string_view source) {
  require(tokens <= vocab_size, "{}: has {} tokens, expected at most {}, the rows of the embeddings", source, tokens,
          vocab_size);
}

bool is_byte_level(const JsonField& root) {
  return root.member("pre_tokenizer").member("type").string_or("") == "ByteLevel";
}

/// What llama.cpp's "gpt2" and "gpt-2" mean and nothing else.
void check_is_gpt2(const JsonField& root) {
  const JsonField pre = root.member("pre_tokenizer"), model = root.member("model");
  if (!is_byte_level(root)) pre.member("type").bad("ByteLevel, the pre-tokenizer that llama.cpp calls gpt-2");
  if (pre.member("add_prefix_space").boolean_or(true)) pre.member("add_prefix_space").bad("false for llama.cpp");
  if (!pre.member("use_regex").boolean_or(true)) pre.member("use_regex").bad("true for llama.cpp");
  if (model.member("type").string_or("BPE") != "BPE") model.member("type").bad("BPE for llama.cpp");
  for (const char* name : {"unk_token", "continuing_subword_prefix", "end_of_word_suffix"})
    if (!model.member(name).is_null() && !model.member(name).string().empty())
      model.member(name).bad("none for llama.cpp");
  if (model.member("ignore_merges").boolean_or(false)) model.member("ignore_merges").bad("false for llama.cpp");
  if (const JsonField normalizer = root.member("normalizer"); !normalizer.is_null())
    log_info(
        "{}: {}: llama.cpp applies none, so text that it changes gets other ids there (not here: the file holds the "
        "whole tokenizer.json)",
        normalizer.source(), normalizer.path());
}

/// "left right", as older tokenizer.json files have them too.
std::vector<std::string> merges_of(const TokenizerFile& file) {
  std::vector<std::string> merges;
  for (std::size_t i = 0; i + 1 < file.merges.size(); i += 2)
    merges.push_back(std::string(file.merges[i]).append(" ").append(file.merges[i + 1]));
  return merges;
}

void add_byte_level(GgufMetadataBuilder& metadata, const Tokenizer& tokenizer, std::string_view text,
                    std::string_view source, std::int64_t vocab_size) {
  const TokenizerFile file = parse_tokenizer_file(text, source);
  const JsonField root(file.root, source);
  check_is_gpt2(root);
  check_vocab_size(tokenizer.vocab_size(), vocab_size, source);
  WrittenTokens tokens = unused_tokens(vocab_size);
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id)
    if (const auto known = tokenizer.id_to_token(id)) {
      tokens.texts[static_cast<std::size_t>(id)] = *known;
      tokens.types[static_cast<std::size_t>(id)] = GgufTokenType::normal;
    }
  if (const JsonField added = root.member("added_tokens"); !added.is_null())
    for (const JsonField& element : added.elements())
      if (const auto id = tokenizer.token_to_id(element.member("content").string()))
        tokens.types[static_cast<std::size_t>(*id)] =
            element.member("special").boolean_or(false) ? GgufTokenType::control : GgufTokenType::user_defined;
  metadata.set_text("tokenizer.ggml.model", "gpt2");
  metadata.set_text("tokenizer.ggml.pre", "gpt-2");
  metadata.set_texts("tokenizer.ggml.tokens", tokens.texts);
  metadata.set_i32s("tokenizer.ggml.token_type", tokens.types);
  metadata.set_texts("tokenizer.ggml.merges", merges_of(file));
  metadata.set_text("tokenizer.huggingface.json", text);
}

void add_sentencepiece(GgufMetadataBuilder& metadata, std::string_view bytes, std::string_view source,
                       std::int64_t vocab_size) {
  const SentencePieceFile file = parse_sentencepiece_file(bytes, source);
  require(file.model_type == SentencePieceFile::ModelType::bpe,
          "{}: trainer_spec.model_type is {}, expected 2, BPE, for a GGUF file", source,
          static_cast<int>(file.model_type));
  require(file.normalization.precompiled_charsmap.empty(),
          "{}: normalizer_spec.precompiled_charsmap can't be held in a GGUF file, expected an identity normalizer",
          source);
  require(file.normalization.escape_whitespaces && !file.normalization.treat_whitespace_as_suffix,
          "{}: escape_whitespaces and treat_whitespace_as_suffix can't be held in a GGUF file, expected true and false",
          source);
  check_vocab_size(static_cast<std::int64_t>(file.pieces.size()), vocab_size, source);
  WrittenTokens tokens = unused_tokens(vocab_size);
  for (std::size_t i = 0; i < file.pieces.size(); ++i) {
    tokens.texts[i] = file.pieces[i].text;
    tokens.types[i] = static_cast<std::int32_t>(file.pieces[i].type);
    tokens.scores[i] = file.pieces[i].score;
  }
  metadata.set_text("tokenizer.ggml.model", "llama");
  metadata.set_text("tokenizer.ggml.pre", "default");
  metadata.set_texts("tokenizer.ggml.tokens", tokens.texts);
  metadata.set_f32s("tokenizer.ggml.scores", tokens.scores);
  metadata.set_i32s("tokenizer.ggml.token_type", tokens.types);
  metadata.set_flag("tokenizer.ggml.add_space_prefix", file.normalization.add_dummy_prefix);
  metadata.set_flag("tokenizer.ggml.remove_extra_whitespaces", file.normalization.remove_extra_whitespaces);
}

/// llama.cpp can put bos in front and eos behind, nothing else.
void add_special_tokens(GgufMetadataBuilder& metadata, const Tokenizer& tokenizer, std::string_view source) {
  auto set = [&](const char* key, const std::optional<std::int32_t>& id) {
    if (id && !metadata.has(key)) metadata.set_u32(key, static_cast<std::uint32_t>(*id));
  };
  set("tokenizer.ggml.bos_token_id", tokenizer.bos_id());
  set("tokenizer.ggml.eos_token_id", tokenizer.eos_id());
  set("tokenizer.ggml.unknown_token_id", tokenizer.unk_id());
  set("tokenizer.ggml.padding_token_id", tokenizer.pad_id());
  std::vector<std::int32_t> around = tokenizer.encode("", SpecialTokens::include);
  const bool bos = !around.empty() && tokenizer.bos_id() == around.front();
  if (bos) around.erase(around.begin());
  const bool eos = !around.empty() && tokenizer.eos_id() == around.back();
  if (eos) around.pop_back();
  require(around.empty(), "{}: puts {} special tokens other than bos and eos around a text, which llama.cpp can't",
          source, around.size());
  metadata.set_flag("tokenizer.ggml.add_bos_token", bos);
  metadata.set_flag("tokenizer.ggml.add_eos_token", eos);
}

/// llama.cpp wants a tokenizer or this word; it then counts the tokens by mamba2.vocab_size.
void add_no_tokenizer(GgufMetadataBuilder& metadata, std::string_view source) {
  log_warning("{}: holds no tokenizer, so the GGUF file will hold none", printable(source, 4096));
  metadata.set_text("tokenizer.ggml.model", "no_vocab");
}

void copy_tokenizer(GgufMetadataBuilder& metadata, const GgufMetadata& from) {
  for (const std::string& key : from.keys())
    if (key.starts_with("tokenizer.") && !metadata.has(key)) metadata.copy(from, key);
  if (!metadata.has("tokenizer.ggml.model")) add_no_tokenizer(metadata, from.source());
}

/// A folder's SentencePiece model where its tokenizer.json isn't byte-level.
std::string choose_file(const std::string& path) {
  if (!directory_exists(path)) return path;
  std::string json = join_path(path, "tokenizer.json");
  std::optional<std::string> model;
  for (const char* name : {"tokenizer.model", "tokenizer.model.v3"})
    if (!model && file_exists(join_path(path, name))) model = join_path(path, name);
  if (!file_exists(json)) return model.value_or(path);
  if (!model) return json;
  const TokenizerFile file = parse_tokenizer_file(read_file(json, max_tokenizer_bytes), json);
  return is_byte_level(JsonField(file.root, json)) ? json : *model;
}

}  // namespace

void add_gguf_tokenizer(GgufMetadataBuilder& metadata, const std::string& path, std::int64_t vocab_size) {
  const std::string chosen = choose_file(path);
  if (directory_exists(chosen)) return add_no_tokenizer(metadata, chosen);
  if (is_gguf_file(chosen)) {
    const MappedFile file(chosen);
    return copy_tokenizer(metadata, GgufMetadata(file.bytes(), chosen));
  }
  const std::unique_ptr<const Tokenizer> tokenizer = Tokenizer::from_pretrained(chosen);
  const MappedFile file(chosen);
  if (looks_like_tokenizer_json(file.text()))
    add_byte_level(metadata, *tokenizer, file.text(), chosen, vocab_size);
  else
    add_sentencepiece(metadata, file.text(), chosen, vocab_size);
  add_special_tokens(metadata, *tokenizer, chosen);
}

}  // namespace mamba2
