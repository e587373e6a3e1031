#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "mamba2/ops/communicator.h"

namespace mamba2 {

/// A place where so many threads wait for each other, again and again.
class Meeting {
 public:
  explicit Meeting(int size) : size_(size) {}
  /// Returns when all have come.  Throws Error once the meeting is called off.
  void wait();
  void call_off() noexcept;

 private:
  const int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0;
  std::uint64_t round_ = 0;
  bool off_ = false;
};

/// Communicators of ranks that are threads of this process and hold their tensors in host memory: sums of f32 and f64
/// are made in double, from rank 0 to the last.
std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int ranks);

}  // namespace mamba2
