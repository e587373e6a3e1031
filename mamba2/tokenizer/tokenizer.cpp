#include "mamba2/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/gguf_metadata.h"
#include "mamba2/tokenizer/backend.h"
#include "mamba2/tokenizer/gguf_tokenizer.h"
#include "mamba2/tokenizer/json_field.h"
#include "mamba2/tokenizer/tokenizer_file.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

constexpr std::array<const char*, 3> tokenizer_files = {"tokenizer.json", "tokenizer.model", "tokenizer.model.v3"};
constexpr std::uint64_t max_config_bytes = 16U << 20;

/// Runs what may throw an Error about a tokenizer and puts the file's name before a message that lacks it.
template <class Run>
auto naming(std::string_view source, const Run& run) {
  try {
    return run();
  } catch (const Error& e) {
    if (std::string_view(e.what()).starts_with(source)) throw;
    fail("{}: {}", source, e.what());
  }
}

bool is_gguf(std::string_view bytes) {
  return bytes.starts_with(gguf_magic);
}

std::unique_ptr<const TokenizerBackend> parse_backend(std::string_view bytes, std::string_view source) {
  return naming(source, [&] {
    if (is_gguf(bytes)) return parse_gguf_tokenizer({std::as_bytes(std::span(bytes)), std::string(source)});
    return looks_like_tokenizer_json(bytes) ? parse_tokenizer_json(bytes, source) : parse_sentencepiece(bytes, source);
  });
}

/// "bos_token": "<s>" or {"content": "<s>", ...}.
std::optional<std::string> token_name(const JsonField& field) {
  if (field.is_null()) return std::nullopt;
  return field.is_object() ? field.member("content").string() : field.string();
}

std::optional<bool> optional_flag(const JsonField& field) {
  if (field.is_null()) return std::nullopt;
  return field.boolean();
}

/// Hugging Face's clean_up_tokenization: what English has no space before.
const std::vector<DecodeStep>& clean_up_steps() {
  static const std::vector<DecodeStep> steps = [] {
    constexpr std::array<std::pair<const char*, const char*>, 10> pairs = {{{" .", "."},
                                                                            {" ?", "?"},
                                                                            {" !", "!"},
                                                                            {" ,", ","},
                                                                            {" ' ", "'"},
                                                                            {" n't", "n't"},
                                                                            {" 'm", "'m"},
                                                                            {" 's", "'s"},
                                                                            {" 've", "'ve"},
                                                                            {" 're", "'re"}}};
    std::vector<DecodeStep> made{decode_fuse()};
    for (const auto& [from, to] : pairs)
      made.push_back(decode_replace(std::make_shared<const Pattern>(std::string(from)), to));
    return made;
  }();
  return steps;
}

}  // namespace

/// What tokenizer_config.json and special_tokens_map.json say.
struct Tokenizer::Settings {
  std::optional<std::string> bos, eos, pad, unk;
  std::optional<bool> add_bos, add_eos, clean_up;

  /// What the tokenizer's file itself says beyond its backend.
  static Settings of_file(std::string_view bytes, std::string_view source) {
    Settings settings;
    if (!is_gguf(bytes)) return settings;
    GgufSpecialTokens special = gguf_special_tokens(GgufMetadata(std::as_bytes(std::span(bytes)), std::string(source)));
    settings.bos = std::move(special.bos);
    settings.eos = std::move(special.eos);
    settings.pad = std::move(special.pad);
    settings.unk = std::move(special.unk);
    settings.add_bos = special.add_bos;
    settings.add_eos = special.add_eos;
    return settings;
  }

  void read(const std::string& path) {
    if (!file_exists(path)) return;
    const Json json = parse_json(read_file(path, max_config_bytes), path);
    const JsonField root(json, path);
    const auto keep = [](auto& value, auto found) {
      if (!value) value = std::move(found);
    };
    keep(bos, token_name(root.member("bos_token")));
    keep(eos, token_name(root.member("eos_token")));
    keep(pad, token_name(root.member("pad_token")));
    keep(unk, token_name(root.member("unk_token")));
    keep(add_bos, optional_flag(root.member("add_bos_token")));
    keep(add_eos, optional_flag(root.member("add_eos_token")));
    keep(clean_up, optional_flag(root.member("clean_up_tokenization_spaces")));
  }
};

Tokenizer::Tokenizer(std::unique_ptr<const TokenizerBackend> backend, std::string source)
    : backend_(std::move(backend)), source_(std::move(source)) {
  const SpecialIds ids = backend_->special_ids();
  bos_id_ = ids.bos;
  eos_id_ = ids.eos;
  pad_id_ = ids.pad;
  unk_id_ = ids.unk;
  Affixes affixes = backend_->affixes();
  before_ = std::move(affixes.before);
  after_ = std::move(affixes.after);
}

Tokenizer::~Tokenizer() = default;

std::unique_ptr<const Tokenizer> Tokenizer::from_bytes(std::string_view bytes, std::string_view source) {
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer(parse_backend(bytes, source), std::string(source)));
  tokenizer->apply(Settings::of_file(bytes, source));
  return tokenizer;
}

std::unique_ptr<const Tokenizer> Tokenizer::from_file(const std::string& path) {
  const MappedFile file(path);
  return from_bytes(file.text(), path);
}

std::unique_ptr<const Tokenizer> Tokenizer::from_pretrained(const std::string& path) {
  std::string file = path;
  std::string folder = std::filesystem::path(path).parent_path().string();
  if (directory_exists(path)) {
    folder = path;
    const auto found = std::find_if(tokenizer_files.begin(), tokenizer_files.end(),
                                    [&](const char* name) { return file_exists(join_path(path, name)); });
    if (found == tokenizer_files.end())
      fail("{}: holds no tokenizer: looked for {}, {} and {}; name one with --tokenizer", printable(path),
           tokenizer_files[0], tokenizer_files[1], tokenizer_files[2]);
    file = join_path(path, *found);
  }
  const MappedFile mapped(file);
  Settings settings = Settings::of_file(mapped.text(), file);
  if (!is_gguf(mapped.text())) {  // a GGUF file stands alone
    const std::string beside = folder.empty() ? "." : folder;
    settings.read(join_path(beside, "tokenizer_config.json"));
    settings.read(join_path(beside, "special_tokens_map.json"));
  }
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer(parse_backend(mapped.text(), file), file));
  tokenizer->apply(settings);
  return tokenizer;
}

void Tokenizer::apply(const Settings& settings) {
  const auto resolve = [&](std::optional<std::int32_t>& id, const std::optional<std::string>& token) {
    if (token) id = token_to_id(*token);
  };
  resolve(bos_id_, settings.bos);
  resolve(eos_id_, settings.eos);
  resolve(pad_id_, settings.pad);
  resolve(unk_id_, settings.unk);
  if (settings.add_bos && bos_id_) {
    const bool is_there = !before_.empty() && before_.front() == *bos_id_;
    if (*settings.add_bos && !is_there) before_.insert(before_.begin(), *bos_id_);
    if (!*settings.add_bos && is_there) before_.erase(before_.begin());
  }
  if (settings.add_eos && eos_id_) {
    const bool is_there = !after_.empty() && after_.back() == *eos_id_;
    if (*settings.add_eos && !is_there) after_.push_back(*eos_id_);
    if (!*settings.add_eos && is_there) after_.pop_back();
  }
  cleans_up_spaces_ = settings.clean_up.value_or(false);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, SpecialTokens special) const {
  return naming(source_, [&] {
    std::vector<std::int32_t> ids;
    ids.reserve(text.size() / 4 + before_.size() + after_.size());
    if (special == SpecialTokens::include) ids = before_;
    if (is_valid_utf8(text))
      backend_->encode(text, ids);
    else
      backend_->encode(to_valid_utf8(text), ids);
    if (special == SpecialTokens::include) ids.insert(ids.end(), after_.begin(), after_.end());
    return ids;
  });
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, SpecialTokens special) const {
  StreamingDecoder decoder(*this, special);
  std::string text;
  for (const std::int32_t id : ids) text += decoder.push(id);
  text += decoder.finish();
  return text;
}

std::int64_t Tokenizer::vocab_size() const {
  return backend_->end_id();
}

std::optional<std::int32_t> Tokenizer::token_to_id(std::string_view token) const {
  return backend_->token_to_id(token);
}

std::optional<std::string> Tokenizer::id_to_token(std::int32_t id) const {
  return backend_->id_to_token(id);
}

StreamingDecoder::StreamingDecoder(const Tokenizer& tokenizer, SpecialTokens special)
    : tokenizer_(&tokenizer), text_(std::make_unique<std::string>()) {
  auto stage = make_write_stage(*text_);
  if (tokenizer.cleans_up_spaces_) stage = make_decode_stages(clean_up_steps(), std::move(stage));
  detokenizer_ = tokenizer.backend_->detokenizer(special, std::move(stage));
}

StreamingDecoder::StreamingDecoder(StreamingDecoder&&) noexcept = default;
StreamingDecoder& StreamingDecoder::operator=(StreamingDecoder&&) noexcept = default;
StreamingDecoder::~StreamingDecoder() = default;

std::string StreamingDecoder::push(std::int32_t id) {
  if (id < 0 || id >= tokenizer_->vocab_size())
    fail("{}: token id {} is out of range: the vocabulary has {} tokens", tokenizer_->source_, id,
         tokenizer_->vocab_size());
  detokenizer_->push(id);
  return std::exchange(*text_, {});
}

std::string StreamingDecoder::finish() {
  detokenizer_->finish();
  return std::exchange(*text_, {});
}

}  // namespace mamba2
