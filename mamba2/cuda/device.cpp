#include "mamba2/cuda/device.h"

#include <array>
#include <mutex>

#include "mamba2/base/error.h"
#include "mamba2/cuda/check.h"

namespace mamba2::cuda {
namespace {

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
  static OncePerDevice read;
  static std::array<DeviceProperties, OncePerDevice::most_devices> properties;
  const std::size_t index = OncePerDevice::current_index();
  read.run([&] { properties[index] = read_properties(static_cast<int>(index)); });
  return properties[index];
}

std::size_t OncePerDevice::current_index() {
  int device = 0;
  check(cudaGetDevice(&device), "find the current device");
  const auto index = static_cast<std::size_t>(device);
  require(index < most_devices, "CUDA: device {} is out of range, expected one below {}", device, most_devices);
  return index;
}

CurrentDevice::CurrentDevice(int index) {
  check(cudaGetDevice(&before_), "find the current device");
  check(cudaSetDevice(index), "choose a device");
}

CurrentDevice::~CurrentDevice() {
  (void)cudaSetDevice(before_);
}

ChosenDevice::ChosenDevice(std::optional<int> index) {
  if (!index) check(cudaGetDevice(&index_), "find the current device");
  index_ = index.value_or(index_);
  make_current();
}

void ChosenDevice::make_current() const {
  check(cudaSetDevice(index_), "choose a device");
}

}  // namespace mamba2::cuda
