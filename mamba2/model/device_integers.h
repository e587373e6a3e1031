#pragma once

#include <cstdint>
#include <vector>

#include "mamba2/ops/backend.h"

namespace mamba2 {

/// A list of integers that every step writes anew and uploads where it differs from what the device holds.  The device
/// memory stays at its address until a longer list comes, so a recorded step that reads it can be replayed with new
/// contents.
class DeviceIntegers {
 public:
  std::vector<std::int32_t> values;  ///< on the host; clear() and push_back() keep its memory

  /// Copies the values to the device and gives them as a view there, valid until the next upload.
  Tensor upload(Backend& backend);
  /// An op has made each of those on the device one more.
  void advance();
  /// What the device holds is not known any more.
  void forget() { on_device_.clear(); }

 private:
  DeviceTensor device_;
  std::vector<std::int32_t> on_device_;
};

}  // namespace mamba2
