#include "mamba2/tokenizer/json_components.h"

#include <limits>
#include <utility>

#include "mamba2/tokenizer/byte_level.h"
#include "mamba2/tokenizer/token_table.h"
#include "mamba2/tokenizer/unicode.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

[[noreturn]] void unsupported(const JsonField& field, const std::string& type) {
  field.fail_with(fmt::format("type '{}' is not supported", printable(type)));
}

/// {"String": text} or {"Regex": pattern}.
Pattern build_pattern(const JsonField& field) {
  if (const JsonField regex = field.member("Regex"); !regex.is_null()) {
    try {
      return Regex(regex.string());
    } catch (const Error& e) {
      regex.fail_with(e.what());
    }
  }
  const JsonField literal = field.member("String");
  if (literal.is_null()) field.bad("{\"String\": text} or {\"Regex\": pattern}");
  std::string text = literal.string();
  if (text.empty()) literal.bad("a text that isn't empty");
  return text;
}

char32_t one_character(const JsonField& field) {
  const std::string text = field.string();
  if (text.empty() || decode_valid_utf8(text, 0).size != text.size()) field.bad("one character");
  return decode_valid_utf8(text, 0).value;
}

SplitBehavior build_behavior(const JsonField& field, std::string_view fallback) {
  const std::string name = field.string_or(fallback);
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  field.bad("Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

/// "never" is also said by add_prefix_space: false, in older files.
PrependScheme build_prepend_scheme(const JsonField& field) {
  const JsonField scheme = field.member("prepend_scheme");
  const std::string name = scheme.string_or("always");
  const bool adds = field.member("add_prefix_space").boolean_or(true);
  if (name == "never" || (!adds && scheme.is_null())) return PrependScheme::never;
  if (!adds) scheme.bad("\"never\", as add_prefix_space is false");
  if (name == "always") return PrependScheme::always;
  if (name == "first") return PrependScheme::first;
  scheme.bad("\"always\", \"first\" or \"never\"");
}

class ByteLevelNormalizer : public Normalizer {
 public:
  std::string apply(std::string text) const override { return to_byte_level(text); }
};

/// The steps of a Sequence within Sequences, one after another.
std::vector<JsonField> flat_steps(const JsonField& field, const char* list_name) {
  if (field.member("type").string() != "Sequence") return {field};
  std::vector<JsonField> steps;
  for (const JsonField& element : field.member(list_name).elements())
    for (JsonField& step : flat_steps(element, list_name)) steps.push_back(std::move(step));
  return steps;
}

NormalizerPtr build_normalizer_step(const JsonField& field) {
  const std::string type = field.member("type").string();
  if (type == "NFC") return make_unicode_normalizer(NormalForm::nfc);
  if (type == "NFD") return make_unicode_normalizer(NormalForm::nfd);
  if (type == "NFKC") return make_unicode_normalizer(NormalForm::nfkc);
  if (type == "NFKD") return make_unicode_normalizer(NormalForm::nfkd);
  if (type == "Lowercase") return make_lowercase();
  if (type == "StripAccents") return make_strip_accents();
  if (type == "ByteLevel") return std::make_unique<ByteLevelNormalizer>();
  if (type == "Prepend") return make_prepend(field.member("prepend").string());
  if (type == "Strip") return make_strip({field.member("strip_left").boolean(), field.member("strip_right").boolean()});
  if (type == "Replace") return make_replace(build_pattern(field.member("pattern")), field.member("content").string());
  unsupported(field, type);
}

PreTokenizerPtr build_byte_level(const JsonField& field, LastByteLevel mode) {
  return make_byte_level({.add_prefix_space = field.member("add_prefix_space").boolean(),
                          .use_regex = field.member("use_regex").boolean_or(true),
                          .write_bytes = mode == LastByteLevel::writes_characters});
}

PreTokenizerPtr build_pre_tokenizer_step(const JsonField& field, LastByteLevel mode) {
  const std::string type = field.member("type").string();
  if (type == "ByteLevel") return build_byte_level(field, mode);
  if (type == "Split")
    return make_split(build_pattern(field.member("pattern")), build_behavior(field.member("behavior"), ""),
                      field.member("invert").boolean_or(false) ? SplitBy::words : SplitBy::delimiters);
  if (type == "Metaspace") {
    std::string replacement;
    append_utf8(replacement, one_character(field.member("replacement")));
    return make_metaspace({replacement, build_prepend_scheme(field), field.member("split").boolean_or(true)});
  }
  if (type == "Whitespace") return make_whitespace_split();
  if (type == "WhitespaceSplit") return make_character_split(is_whitespace, SplitBehavior::removed);
  if (type == "Punctuation")
    return make_character_split(is_punctuation, build_behavior(field.member("behavior"), "Isolated"));
  if (type == "Digits")
    return make_character_split(is_number, field.member("individual_digits").boolean_or(false)
                                               ? SplitBehavior::isolated
                                               : SplitBehavior::contiguous);
  unsupported(field, type);
}

std::int32_t build_id(const JsonField& field) {
  return static_cast<std::int32_t>(field.count(max_vocabulary - 1));
}

/// {"id": NAME, "ids": [...], "tokens": [...]} of TemplateProcessing's special_tokens.
void append_template_token(const JsonField& field, const std::string& name, std::vector<std::int32_t>& ids) {
  const JsonField token = field.member("special_tokens").member(name);
  if (token.is_null()) token.bad("the ids of a special token that 'single' names");
  for (const JsonField& id : token.member("ids").elements()) ids.push_back(build_id(id));
}

Affixes build_template(const JsonField& field) {
  Affixes affixes;
  int sequences = 0;
  for (const JsonField& piece : field.member("single").elements()) {
    if (const JsonField sequence = piece.member("Sequence"); !sequence.is_null()) {
      if (sequence.member("id").string() != "A" || ++sequences > 1) sequence.bad("the one sequence A");
    } else {
      const std::string name = piece.member("SpecialToken").member("id").string();
      append_template_token(field, name, sequences == 0 ? affixes.before : affixes.after);
    }
  }
  if (sequences != 1) field.member("single").fail_with("doesn't hold the sequence A");
  return affixes;
}

/// ["</s>", 2] of RobertaProcessing and BertProcessing.
std::int32_t build_pair_id(const JsonField& field) {
  const auto pair = field.elements();
  if (pair.size() != 2) field.bad("[token, id]");
  return build_id(pair[1]);
}

Affixes build_post_processor_step(const JsonField& field) {
  const std::string type = field.member("type").string();
  if (type == "ByteLevel") return {};
  if (type == "TemplateProcessing") return build_template(field);
  if (type == "RobertaProcessing" || type == "BertProcessing")
    return {{build_pair_id(field.member("cls"))}, {build_pair_id(field.member("sep"))}};
  unsupported(field, type);
}

DecodeStep build_decoder_step(const JsonField& field) {
  const std::string type = field.member("type").string();
  constexpr std::int64_t max_strip = 1 << 20;
  if (type == "ByteLevel") return decode_byte_level();
  if (type == "ByteFallback") return decode_byte_fallback();
  if (type == "Fuse") return decode_fuse();
  if (type == "Metaspace")
    return decode_metaspace(
        one_character(field.member("replacement")),
        build_prepend_scheme(field) == PrependScheme::never ? FirstSpace::kept : FirstSpace::dropped);
  if (type == "Strip")
    return decode_strip(one_character(field.member("content")),
                        static_cast<std::size_t>(field.member("start").count(max_strip)),
                        static_cast<std::size_t>(field.member("stop").count(max_strip)));
  if (type == "Replace")
    return decode_replace(std::make_shared<const Pattern>(build_pattern(field.member("pattern"))),
                          field.member("content").string());
  unsupported(field, type);
}

}  // namespace

NormalizerPtr build_normalizer(const JsonField& field) {
  if (field.is_null()) return nullptr;
  std::vector<NormalizerPtr> steps;
  for (const JsonField& step : flat_steps(field, "normalizers")) steps.push_back(build_normalizer_step(step));
  return make_normalizer_sequence(std::move(steps));
}

PreTokenizerPtr build_pre_tokenizer(const JsonField& field, LastByteLevel last) {
  if (field.is_null()) return nullptr;
  const auto fields = flat_steps(field, "pretokenizers");
  std::vector<PreTokenizerPtr> steps;
  for (std::size_t i = 0; i < fields.size(); ++i)
    steps.push_back(
        build_pre_tokenizer_step(fields[i], i + 1 == fields.size() ? last : LastByteLevel::writes_characters));
  return make_pre_tokenizer_sequence(std::move(steps));
}

bool ends_with_byte_level(const JsonField& field) {
  if (field.is_null()) return false;
  const auto steps = flat_steps(field, "pretokenizers");
  return !steps.empty() && steps.back().member("type").string() == "ByteLevel";
}

Affixes build_post_processor(const JsonField& field) {
  Affixes all;
  if (field.is_null()) return all;
  for (const JsonField& step : flat_steps(field, "processors")) {
    Affixes added = build_post_processor_step(step);
    all.before.insert(all.before.begin(), added.before.begin(), added.before.end());
    all.after.insert(all.after.end(), added.after.begin(), added.after.end());
  }
  return all;
}

std::vector<DecodeStep> build_decoder(const JsonField& field) {
  if (field.is_null()) return {decode_join_with_space()};
  std::vector<DecodeStep> steps;
  for (const JsonField& step : flat_steps(field, "decoders")) steps.push_back(build_decoder_step(step));
  return steps;
}

}  // namespace mamba2
