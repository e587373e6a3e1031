#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mamba2 {

/// Which of a repository's files a model needs.  Only files at the repository's top count.

/// config.json, params.json, generation_config.json, special_tokens_map.json, tokenizer*.json, tokenizer.model*.
bool is_description_file(std::string_view name);
/// tokenizer.json and tokenizer.model*: one of them is enough to read text.
bool is_tokenizer_file(std::string_view name);

struct WeightFile {
  std::string name;
  bool is_index = false;  // lists the files that hold the weights
};

/// The first that exists of model.safetensors, its index, consolidated.safetensors, pytorch_model.bin, its index: never
/// two sets of the same weights.
std::optional<WeightFile> choose_weights(const std::function<bool(const std::string& name)>& exists);

/// The files that an index.json lists, each once, sorted.  Throws Error that names the index and the field where it is
/// malformed or a name leaves its folder.
std::vector<std::string> shards_of_index(const std::string& path);

/// Names the first thing that a local folder lacks of a model: "config.json", "a file of weights", a shard's name;
/// nothing where config and one whole set of weights are there.
std::optional<std::string> missing_from_folder(const std::string& folder);

bool folder_has_tokenizer(const std::string& folder);

}  // namespace mamba2
