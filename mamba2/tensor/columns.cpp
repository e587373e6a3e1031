#include "mamba2/tensor/columns.h"

#include "mamba2/base/error.h"

namespace mamba2 {

Tensor split_columns(const Tensor& x, std::int64_t outer, std::int64_t inner) {
  require(x.rank() == 2 && x.size(1) == outer * inner, "a tensor of shape {} can't be viewed as {}", to_string(x.shape),
          to_string(Shape{x.size(0), outer, inner}));
  Tensor view = x;
  view.shape = Shape{x.size(0), outer, inner};
  view.strides = {x.stride(0), inner, 1};
  return view;
}

}  // namespace mamba2
