#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "mamba2/tokenizer/added_tokens.h"
#include "mamba2/tokenizer/backend.h"
#include "mamba2/tokenizer/model.h"
#include "mamba2/tokenizer/normalizer.h"
#include "mamba2/tokenizer/pre_tokenizer.h"
#include "mamba2/tokenizer/tokenizer_file.h"

namespace mamba2 {

class JsonField;

/// A tokenizer by Hugging Face's tokenizer.json: added tokens are cut out, the rest is normalized, cut into words, and
/// each word encoded by the model.
class JsonTokenizer : public TokenizerBackend {
 public:
  JsonTokenizer(TokenizerFile file, std::string_view source);

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override;
  std::unique_ptr<Detokenizer> detokenizer(SpecialTokens special, std::unique_ptr<DecodeStage> next) const override;
  Affixes affixes() const override { return affixes_; }
  SpecialIds special_ids() const override { return {.bos = {}, .eos = {}, .pad = {}, .unk = unk_id_}; }
  std::int32_t end_id() const override { return end_id_; }
  std::optional<std::int32_t> token_to_id(std::string_view token) const override;
  std::optional<std::string> id_to_token(std::int32_t id) const override;

  /// What a decoder is given for an id: nothing where no token has it.
  std::optional<std::string_view> text_to_decode(std::int32_t id) const;
  /// Of a text to decode.
  bool is_special(std::string_view text) const;

 private:
  void add_tokens(const JsonField& field);
  void build_matchers();
  void encode_part(std::string_view part, bool starts_text, PieceList& pieces, EncodeWorkspace& space,
                   std::vector<std::int32_t>& ids) const;

  TokenTable tokens_;
  std::unique_ptr<const WordModel> model_;
  std::optional<std::int32_t> unk_id_;
  std::int32_t end_id_ = 0;
  std::vector<std::unique_ptr<AddedToken>> added_;
  std::unordered_map<std::string_view, AddedToken*> added_by_text_;
  std::unordered_map<std::int32_t, const AddedToken*> added_by_id_;
  std::unordered_map<std::int32_t, std::string> normalized_text_;  // of added tokens that the normalizer changes
  AddedTokenMatcher plain_matcher_, normalized_matcher_;
  NormalizerPtr normalizer_;
  PreTokenizerPtr pre_tokenizer_;
  Affixes affixes_;
  std::vector<DecodeStep> decoder_;
};

}  // namespace mamba2
