#pragma once

#include "mamba2/base/random.h"
#include "mamba2/tensor/tensor.h"

namespace mamba2::benchmarks {

/// Normal values; a pattern of a few thousand repeats, drawing them all would take longer than what is measured.
inline HostTensor random_tensor(DType dtype, const Shape& shape, double spread = 1.0) {
  constexpr std::int64_t drawn = 4099;
  HostTensor pattern(DType::f32, Shape{drawn});
  Random random(1);
  for (float& value : pattern.span<float>()) value = static_cast<float>(spread * random.normal());
  HostTensor made(dtype, shape);
  const Tensor flat = made.view().reshape(Shape{shape.elements()});
  for (std::int64_t i = 0; i < shape.elements(); i += drawn) {
    const std::int64_t count = std::min(drawn, shape.elements() - i);
    convert(pattern.view().slice(0, 0, count), flat.slice(0, i, count));
  }
  return made;
}

}  // namespace mamba2::benchmarks
