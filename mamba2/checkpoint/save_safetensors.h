#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "mamba2/checkpoint/safetensors_writer.h"

namespace mamba2 {

struct SafetensorsSaveOptions {
  std::uint64_t max_shard_bytes = 5'000'000'000;  ///< of values a file, Hugging Face's default
  SafetensorsMetadata metadata = default_safetensors_metadata;
};

/// The values of a tensor that is being saved: a host tensor of the spec's shape, of its dtype or another floating one.
/// Valid until the next call.
using TensorReader = std::function<Tensor(const TensorSpec&)>;

/// Saves tensors to a folder as model.safetensors or, where they take more than max_shard_bytes, as
/// model-00001-of-0000N.safetensors with model.safetensors.index.json.  Each tensor is asked for once.  A save that was
/// there before stays whole until all new files are on disk; then they take its place, index last, and its other shards
/// are removed.  Throws Error that names the file; nothing has changed then unless renaming itself failed.
void save_safetensors(const std::string& folder, const std::vector<TensorSpec>& tensors, const TensorReader& read,
                      const SafetensorsSaveOptions& options = {});

}  // namespace mamba2
