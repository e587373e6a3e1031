#include "mamba2/tokenizer/json_model.h"

#include <utility>

#include "mamba2/tokenizer/bpe.h"
#include "mamba2/tokenizer/unigram.h"

namespace mamba2 {
namespace {

std::optional<std::string> optional_string(const JsonField& field) {
  if (field.is_null()) return std::nullopt;
  return field.string();
}

std::int32_t merge_part(const TokenTable& tokens, const JsonField& merges, std::size_t entry, std::string_view text) {
  const std::int32_t id = tokens.find(text);
  if (id < 0)
    merges.fail_with(fmt::format("entry {} needs '{}', which is not in model.vocab", entry, printable(text, 80)));
  return id;
}

MergeTable build_merges(const TokenizerFile& file, const TokenTable& tokens, const JsonField& merges,
                        const std::string& prefix) {
  MergeTable table;
  const std::size_t count = file.merges.size() / 2;
  table.reserve(count);
  std::string merged;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view left = file.merges[2 * i], right = file.merges[2 * i + 1];
    if (right.size() < prefix.size())
      merges.fail_with(fmt::format("entry {}: '{}' lacks the continuing_subword_prefix", i, printable(right, 80)));
    merged.assign(left);
    merged += right.substr(prefix.size());
    const std::int32_t left_id = merge_part(tokens, merges, i, left);
    const std::int32_t right_id = merge_part(tokens, merges, i, right);
    table.set(left_id, right_id, static_cast<std::uint32_t>(i), merge_part(tokens, merges, i, merged));
  }
  return table;
}

BuiltModel build_bpe(const TokenizerFile& file, const TokenTable& tokens, const JsonField& field, WordForm form) {
  const JsonField dropout = field.member("dropout");
  if (!dropout.is_null() && dropout.number() != 0) dropout.bad("null or 0: encoding is never random here");
  if (!field.member("vocab").boolean_or(false)) field.member("vocab").bad("an object of tokens and ids");
  if (!file.scores.empty()) field.member("vocab").fail_with("is a list, expected an object of tokens and ids");
  if (!field.member("merges").boolean_or(false)) field.member("merges").bad("a list of merges");
  BpeOptions options{.unk_token = optional_string(field.member("unk_token")),
                     .continuing_subword_prefix = field.member("continuing_subword_prefix").string_or(""),
                     .end_of_word_suffix = field.member("end_of_word_suffix").string_or(""),
                     .fuse_unk = field.member("fuse_unk").boolean_or(false),
                     .byte_fallback = field.member("byte_fallback").boolean_or(false),
                     .ignore_merges = field.member("ignore_merges").boolean_or(false)};
  options.words_are_bytes = form == WordForm::bytes_if_possible && Bpe::can_take_bytes(tokens, options);
  BuiltModel built;
  if (options.unk_token)
    if (const std::int32_t id = tokens.find(*options.unk_token); id >= 0) built.unk_id = id;
  built.takes_bytes = options.words_are_bytes;
  MergeTable merges = build_merges(file, tokens, field.member("merges"), options.continuing_subword_prefix);
  built.model = std::make_unique<Bpe>(tokens, std::move(merges), std::move(options));
  return built;
}

BuiltModel build_unigram(const TokenizerFile& file, const TokenTable& tokens, const JsonField& field) {
  if (file.scores.size() != tokens.size() || tokens.size() == 0)
    field.member("vocab").fail_with("holds no tokens, expected a list of [token, score]");
  BuiltModel built;
  if (const JsonField unk = field.member("unk_id"); !unk.is_null())
    built.unk_id = static_cast<std::int32_t>(unk.count(static_cast<std::int64_t>(tokens.size()) - 1));
  const bool falls_back = field.member("byte_fallback").boolean_or(false);
  built.model = std::make_unique<Unigram>(tokens, file.scores, built.unk_id,
                                          falls_back ? Unigram::ByteFallback::yes : Unigram::ByteFallback::no);
  return built;
}

}  // namespace

BuiltModel build_model(const TokenizerFile& file, const TokenTable& tokens, const JsonField& field, WordForm form) {
  if (!field.is_object()) field.bad("an object");
  const std::string type = field.member("type").string_or(field.member("merges").is_null() ? "" : "BPE");
  if (type == "BPE") return build_bpe(file, tokens, field, form);
  if (type == "Unigram") return build_unigram(file, tokens, field);
  field.member("type").fail_with(fmt::format("'{}' is not supported, expected BPE or Unigram", printable(type)));
}

}  // namespace mamba2
