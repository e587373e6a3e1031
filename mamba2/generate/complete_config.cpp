#include "mamba2/generate/complete_config.h"

#include <random>

#include "mamba2/base/error.h"

namespace mamba2 {

namespace {

std::uint64_t seed_from_system() {
  std::random_device device;
  return (static_cast<std::uint64_t>(device()) << 32U) | device();
}

}  // namespace

GenerationConfig complete_config(const GenerationConfig& asked) {
  asked.validate();
  GenerationConfig config = asked;
  if (config.min_new_tokens) config.min_length.reset();
  config.fill_from(GenerationConfig::defaults());
  if (!config.seed) config.seed = *config.do_sample ? seed_from_system() : 0;
  return config;
}

std::vector<std::int32_t> complete_prompt(std::vector<std::int32_t> ids, std::string_view name,
                                          const GenerationConfig& config, std::int64_t vocab_size) {
  if (ids.empty()) {
    require(config.bos_token_id.value_or(-1) >= 0, "{} is empty and there is no bos_token_id to start from", name);
    ids.push_back(*config.bos_token_id);
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    require(ids[i] >= 0 && ids[i] < vocab_size, "{}: token {} at position {} is outside the vocabulary of {} tokens",
            name, ids[i], i, vocab_size);
  }
  return ids;
}

}  // namespace mamba2
