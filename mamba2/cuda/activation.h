#pragma once

namespace mamba2::cuda {

/// Hugging Face's hidden_act, by what it computes: swish is silu, gelu_new the tanh form.
enum class Activation { none, silu, gelu, gelu_tanh, relu, tanh, sigmoid };

}  // namespace mamba2::cuda
