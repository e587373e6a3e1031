#include "mamba2/generate/text_decoder.h"

namespace mamba2 {

namespace {

class TokenizerTextDecoder : public TextDecoder {
 public:
  TokenizerTextDecoder(const Tokenizer& tokenizer, SpecialTokens special)
      : decoder_(tokenizer, special), end_id_(tokenizer.vocab_size()) {}
  std::string put(std::int32_t id) override { return id < end_id_ ? decoder_.push(id) : std::string(); }
  std::string finish() override { return decoder_.finish(); }

 private:
  StreamingDecoder decoder_;
  std::int64_t end_id_;
};

}  // namespace

MakeTextDecoder text_decoders(const Tokenizer& tokenizer, SpecialTokens special) {
  return [&tokenizer, special] { return std::make_unique<TokenizerTextDecoder>(tokenizer, special); };
}

}  // namespace mamba2
