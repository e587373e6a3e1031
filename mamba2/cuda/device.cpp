#include "mamba2/cuda/device.h"

#include <array>
#include <mutex>

#include "mamba2/base/error.h"
#include "mamba2/cuda/check.h"

namespace mamba2::cuda {
namespace {

constexpr int max_devices = 64;

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "read a device attribute");
  return value;
}

DeviceProperties read_properties(int device) {
  DeviceProperties properties;
  properties.compute_capability =
      10 * attribute(cudaDevAttrComputeCapabilityMajor, device) + attribute(cudaDevAttrComputeCapabilityMinor, device);
  properties.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  properties.l2_bytes = static_cast<std::size_t>(attribute(cudaDevAttrL2CacheSize, device));
  properties.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return properties;
}

}  // namespace

const DeviceProperties& current_device() {
  static std::array<std::once_flag, max_devices> read;
  static std::array<DeviceProperties, max_devices> properties;
  int device = 0;
  check(cudaGetDevice(&device), "find the current device");
  require(device < max_devices, "CUDA: device {} is out of range, expected one below {}", device, max_devices);
  const auto index = static_cast<std::size_t>(device);
  std::call_once(read[index], [&] { properties[index] = read_properties(device); });
  return properties[index];
}

}  // namespace mamba2::cuda
