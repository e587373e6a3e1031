#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "mamba2/checkpoint/tensor_source.h"
#include "mamba2/model/config.h"

namespace mamba2 {

/// The dialect in which a model with this config is saved: merged Hugging Face where it can hold the model, the fork's
/// where attention layers, MLP layers, a classification head or a gated norm with an epsilon of its own need it, else
/// state-spaces'.
Dialect dialect_to_save(const Mamba2Config& config);

/// config.json in that dialect; dtype_name is written as torch_dtype.  Throws Error naming what the dialect can't say.
Json config_to_json(const Mamba2Config& config, Dialect dialect, const std::string& dtype_name);

/// Writes config.json and safetensors (sharded past 5 GB) to a folder; what was there before stays until all is on
/// disk.  dtype: what every tensor is written as; absent: each tensor's own.  on_progress gets bytes written and in
/// total.
void save_checkpoint(const Mamba2Config& config, const TensorSource& source, const std::string& folder,
                     std::optional<DType> dtype,
                     const std::function<void(std::uint64_t, std::uint64_t)>& on_progress = {});

}  // namespace mamba2
