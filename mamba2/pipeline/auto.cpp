#include "mamba2/pipeline/auto.h"

#include <algorithm>
#include <iterator>

#include "mamba2/base/file.h"
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

std::string continuation(const Tokenizer& tokenizer, std::span<const std::int32_t> ids, std::size_t prompt_length) {
  // ids that only pad the model's vocabulary have no text
  auto text = [&](std::span<const std::int32_t> part) {
    std::vector<std::int32_t> known;
    std::copy_if(part.begin(), part.end(), std::back_inserter(known),
                 [&](std::int32_t id) { return id < tokenizer.vocab_size(); });
    return tokenizer.decode(known, SpecialTokens::omit);
  };
  const std::string whole = text(ids), prompt = text(ids.first(prompt_length));
  return whole.starts_with(prompt) ? whole.substr(prompt.size()) : text(ids.subspan(prompt_length));
}

}  // namespace mamba2
