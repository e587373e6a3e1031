#pragma once

#include <array>
#include <cstddef>
#include <mutex>
#include <optional>

namespace mamba2::cuda {

/// What kernels' tile choices ask of a device.
struct DeviceProperties {
  int compute_capability = 0;  // 10 * major + minor
  int multiprocessors = 0;
  std::size_t l2_bytes = 0;
  int shared_bytes = 0;  // that one block may have
};

/// Of the calling thread's current device; read once a device.  Throws Error where there is none.
const DeviceProperties& current_device();

/// Something to be done once on each device, as setting a kernel's attributes is.
class OncePerDevice {
 public:
  /// Calls act unless it was called on the calling thread's current device.
  template <class Act>
  void run(Act&& act) {
    std::call_once(done_[current_index()], act);
  }

 private:
  static constexpr std::size_t most_devices = 64;
  static std::size_t current_index();

  friend const DeviceProperties& current_device();
  std::array<std::once_flag, most_devices> done_;
};

/// Makes a device the calling thread's, until the end of the scope.
class CurrentDevice {
 public:
  explicit CurrentDevice(int index);
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  ~CurrentDevice();

 private:
  int before_ = 0;
};

/// The device that a backend works on: a given one, or whichever is the calling thread's when it is made.
class ChosenDevice {
 public:
  explicit ChosenDevice(std::optional<int> index);
  /// For the calling thread, before it makes or launches anything.
  void make_current() const;
  int index() const { return index_; }

 private:
  int index_ = 0;
};

}  // namespace mamba2::cuda
