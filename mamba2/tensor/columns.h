#pragma once

#include "mamba2/tensor/tensor.h"

namespace mamba2 {

/// (rows, outer * inner) seen as (rows, outer, inner); rows may lie any stride apart.  Throws Error where x has not two
/// dimensions or another width.
Tensor split_columns(const Tensor& x, std::int64_t outer, std::int64_t inner);

}  // namespace mamba2
