#include "mamba2/tokenizer/json_tokenizer.h"

#include <algorithm>
#include <utility>

#include "mamba2/base/log.h"
#include "mamba2/tokenizer/json_components.h"
#include "mamba2/tokenizer/json_model.h"

namespace mamba2 {
namespace {

class JsonDetokenizer : public Detokenizer {
 public:
  JsonDetokenizer(const JsonTokenizer& tokenizer, SpecialTokens special, std::unique_ptr<DecodeStage> first)
      : tokenizer_(tokenizer), special_(special), first_(std::move(first)) {}

  void push(std::int32_t id) override {
    const auto text = tokenizer_.text_to_decode(id);
    if (!text || (special_ == SpecialTokens::omit && tokenizer_.is_special(*text))) return;
    first_->part(*text);
    first_->end_token();
  }
  void finish() override { first_->finish(); }

 private:
  const JsonTokenizer& tokenizer_;
  SpecialTokens special_;
  std::unique_ptr<DecodeStage> first_;
};

AddedToken read_added_token(const JsonField& field) {
  AddedToken token;
  token.content = field.member("content").string();
  token.id = static_cast<std::int32_t>(field.member("id").count(max_vocabulary - 1));
  token.flags.special = field.member("special").boolean_or(false);
  token.flags.normalized = field.member("normalized").boolean_or(!token.flags.special);
  token.flags.single_word = field.member("single_word").boolean_or(false);
  token.flags.lstrip = field.member("lstrip").boolean_or(false);
  token.flags.rstrip = field.member("rstrip").boolean_or(false);
  return token;
}

}  // namespace

JsonTokenizer::JsonTokenizer(TokenizerFile file, std::string_view source) {
  const JsonField root(file.root, source);
  if (const JsonField version = root.member("version"); !version.is_null() && version.string() != "1.0")
    version.bad("\"1.0\"");
  const JsonField pre_tokenizer = root.member("pre_tokenizer");
  tokens_ = std::move(file.tokens);
  const bool wants_bytes = ends_with_byte_level(pre_tokenizer);
  BuiltModel built =
      build_model(file, tokens_, root.member("model"), wants_bytes ? WordForm::bytes_if_possible : WordForm::text);
  model_ = std::move(built.model);
  unk_id_ = built.unk_id;
  normalizer_ = build_normalizer(root.member("normalizer"));
  pre_tokenizer_ = build_pre_tokenizer(
      pre_tokenizer, built.takes_bytes ? LastByteLevel::leaves_bytes : LastByteLevel::writes_characters);
  affixes_ = build_post_processor(root.member("post_processor"));
  decoder_ = build_decoder(root.member("decoder"));
  if (const JsonField added = root.member("added_tokens"); !added.is_null()) add_tokens(added);
  build_matchers();
  end_id_ = tokens_.end_id();
  for (const auto& token : added_) end_id_ = std::max(end_id_, token->id + 1);
}

/// Ids are dealt out as Hugging Face does: a token the model knows keeps the model's, the others follow the largest.
void JsonTokenizer::add_tokens(const JsonField& field) {
  auto next_id = static_cast<std::int32_t>(tokens_.size());
  for (const JsonField& element : field.elements()) {
    AddedToken token = read_added_token(element);
    if (token.content.empty()) continue;
    const std::int32_t listed = token.id;
    const auto known = token_to_id(token.content);
    token.id = known ? *known : next_id++;
    if (token.id != listed)
      log_warning("{}: {}: added token '{}' gets id {}, not the {} it is listed with", element.source(), element.path(),
                  printable(token.content), token.id, listed);
    if (const auto same = added_by_text_.find(token.content); same != added_by_text_.end()) {
      same->second->flags = token.flags;
      continue;
    }
    AddedToken* kept = added_.emplace_back(std::make_unique<AddedToken>(std::move(token))).get();
    added_by_text_[kept->content] = kept;
    added_by_id_[kept->id] = kept;
  }
  require(next_id <= max_vocabulary, "added_tokens: more than {} tokens", max_vocabulary);
}

void JsonTokenizer::build_matchers() {
  for (const auto& token : added_) {
    if (!token->flags.normalized) {
      plain_matcher_.add(token->content, *token);
      continue;
    }
    std::string text = normalizer_ ? normalizer_->apply(token->content) : token->content;
    normalized_matcher_.add(text, *token);
    if (text != token->content) normalized_text_[token->id] = std::move(text);
  }
}

void JsonTokenizer::encode(std::string_view text, std::vector<std::int32_t>& ids) const {
  EncodeWorkspace space(text.size());
  PieceList pieces(text.size());
  std::vector<AddedTokenMatcher::Part> parts;
  plain_matcher_.split(text, parts);
  for (const auto& part : parts) {
    if (part.token != nullptr)
      ids.push_back(part.token->id);
    else
      encode_part(part.text, part.text.data() == text.data(), pieces, space, ids);
  }
}

void JsonTokenizer::encode_part(std::string_view part, bool starts_text, PieceList& pieces, EncodeWorkspace& space,
                                std::vector<std::int32_t>& ids) const {
  const std::string_view text = normalizer_ ? pieces.own(normalizer_->apply(std::string(part))) : part;
  std::vector<AddedTokenMatcher::Part> subparts;
  normalized_matcher_.split(text, subparts);
  for (const auto& subpart : subparts) {
    if (subpart.token != nullptr) {
      ids.push_back(subpart.token->id);
      continue;
    }
    pieces.reset({subpart.text, starts_text && subpart.text.data() == text.data()});
    if (pre_tokenizer_) pre_tokenizer_->apply(pieces);
    for (const Piece& piece : pieces.pieces()) model_->encode(piece.text, space, ids);
  }
}

std::unique_ptr<Detokenizer> JsonTokenizer::detokenizer(SpecialTokens special,
                                                        std::unique_ptr<DecodeStage> next) const {
  return std::make_unique<JsonDetokenizer>(*this, special, make_decode_stages(decoder_, std::move(next)));
}

std::optional<std::int32_t> JsonTokenizer::token_to_id(std::string_view token) const {
  if (const auto found = added_by_text_.find(token); found != added_by_text_.end()) return found->second->id;
  const std::int32_t id = tokens_.find(token);
  if (id < 0) return std::nullopt;
  return id;
}

std::optional<std::string> JsonTokenizer::id_to_token(std::int32_t id) const {
  if (const auto found = added_by_id_.find(id); found != added_by_id_.end()) return found->second->content;
  const auto text = tokens_.text(id);
  if (!text) return std::nullopt;
  return std::string(*text);
}

std::optional<std::string_view> JsonTokenizer::text_to_decode(std::int32_t id) const {
  if (const auto found = added_by_id_.find(id); found != added_by_id_.end()) {
    const auto normalized = normalized_text_.find(id);
    return normalized == normalized_text_.end() ? std::string_view(found->second->content) : normalized->second;
  }
  return tokens_.text(id);
}

bool JsonTokenizer::is_special(std::string_view text) const {
  const auto found = added_by_text_.find(text);
  return found != added_by_text_.end() && found->second->flags.special;
}

std::unique_ptr<const TokenizerBackend> parse_tokenizer_json(std::string_view text, std::string_view source) {
  return std::make_unique<JsonTokenizer>(parse_tokenizer_file(text, source), source);
}

}  // namespace mamba2
