#pragma once

#include "mamba2/cpu/context.h"

namespace mamba2::cpu {

// Linear and Embedding whose weight is a QuantizedWeight.
void quantized_linear(Context& context, const Linear& op);
void quantized_embedding(Context& context, const Embedding& op);

}  // namespace mamba2::cpu
