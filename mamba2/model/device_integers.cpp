#include "mamba2/model/device_integers.h"

#include <algorithm>

namespace mamba2 {

Tensor DeviceIntegers::upload(Backend& backend) {
  const auto count = static_cast<std::int64_t>(values.size());
  const std::int64_t capacity = device_.view.empty() ? 0 : device_.view.size(0);
  if (device_.view.empty() || capacity < count)
    device_ = backend.allocate(DType::i32, {std::max({count, 2 * capacity, std::int64_t{64}})});
  const Tensor on_device = device_.view.slice(0, 0, count);
  if (count > 0) backend.upload(Tensor(values.data(), DType::i32, {count}), on_device);
  return on_device;
}

}  // namespace mamba2
