#pragma once

#include <memory>
#include <string>

#include "mamba2/checkpoint/tensor_source.h"
#include "mamba2/model/config.h"

namespace mamba2::app {

/// The config of a published size: "130m", "370m", "780m", "1.3b", "2.7b" (state-spaces' Mamba-2) or "codestral-7b".
/// Throws Error that lists the sizes.
Mamba2Config config_of_shape(const std::string& shape);

/// Random bf16 weights for a config, made in memory: values of the size that training leaves, so that activations stay
/// finite, and the same ones every time.
std::unique_ptr<TensorSource> random_weights(const Mamba2Config& config);

}  // namespace mamba2::app
