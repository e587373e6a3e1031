#include "mamba2/pipeline/auto.h"

#include "mamba2/base/file.h"
#include "mamba2/generate/text_decoder.h"
#include "mamba2/model/locate.h"

namespace mamba2 {

std::unique_ptr<const Tokenizer> AutoTokenizer::from_pretrained(const std::string& path) {
  if (directory_exists(path) || file_exists(path)) return Tokenizer::from_pretrained(path);
  return Tokenizer::from_pretrained(locate_model(path).folder);
}

GenerationConfig generation_config_of(const Mamba2ForCausalLM& model) {
  GenerationConfig config = GenerationConfig::from_folder(model.model().path());
  config.fill_from(GenerationConfig::from_model_config(model.config()));
  return config;
}

std::string text_of(const Tokenizer& tokenizer, std::span<const std::int32_t> ids) {
  const auto decoder = text_decoders(tokenizer, SpecialTokens::omit)();
  std::string text;
  for (const std::int32_t id : ids) text += decoder->put(id);
  return text + decoder->finish();
}

std::string continuation(const Tokenizer& tokenizer, std::span<const std::int32_t> ids, std::size_t prompt_length) {
  const std::string whole = text_of(tokenizer, ids);
  const std::string prompt = text_of(tokenizer, ids.first(prompt_length));
  if (whole.starts_with(prompt)) return whole.substr(prompt.size());
  return text_of(tokenizer, ids.subspan(prompt_length));
}

}  // namespace mamba2
