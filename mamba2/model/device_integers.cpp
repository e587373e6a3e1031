#include "mamba2/model/device_integers.h"

#include <algorithm>

namespace mamba2 {

Tensor DeviceIntegers::upload(Backend& backend) {
  const auto count = static_cast<std::int64_t>(values.size());
  const std::int64_t capacity = device_.view.empty() ? 0 : device_.view.size(0);
  if (device_.view.empty() || capacity < count) {
    device_ = backend.allocate(DType::i32, {std::max({count, 2 * capacity, std::int64_t{64}})});
    forget();
  }
  const Tensor view = device_.view.slice(0, 0, count);
  if (values.size() <= on_device_.size() && std::equal(values.begin(), values.end(), on_device_.begin())) return view;
  forget();
  backend.upload(Tensor(values.data(), DType::i32, {count}), view);
  on_device_ = values;
  return view;
}

void DeviceIntegers::advance() {
  for (std::int32_t& value : on_device_) ++value;
}

}  // namespace mamba2
