#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/checkpoint/tensor_source.h"

namespace mamba2 {

/// Tensor names by shard file, as an index.json's weight_map gives them (the names in its order).
using WeightMap = std::map<std::string, std::vector<std::string>>;

/// Reads a *.index.json: {"metadata": ..., "weight_map": {tensor: file}}.  File names that are no plain names (holding
/// a slash, "..", nothing) are refused.  Throws Error that starts with source.
WeightMap parse_weight_map(std::string_view json, std::string_view source);

/// Opens the shards that lie beside the index.json at that path as one source.  Tensors that the index does not name
/// are left out.
std::unique_ptr<TensorSource> open_sharded(const std::string& index);

/// Opens one file that holds tensors itself, whichever container it is.
std::unique_ptr<TensorSource> open_tensor_file(const std::string& path);

}  // namespace mamba2
