#pragma once

#include "mamba2/tensor/tensor.h"

namespace mamba2 {

/// What backends that compute one model together, a rank each, say to each other.  Every rank makes the same calls in
/// the same order, with tensors of one shape and dtype, each from a thread of its own.  A rank's communicator belongs
/// to its backend's thread, but for abort().
class Communicator {
 public:
  Communicator(int rank, int size) : rank_(rank), size_(size) {}
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  virtual ~Communicator() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// data becomes the sum of what the ranks hold there, with the same bits on all of them.  data is contiguous, on the
  /// backend's device; stream is the one whose work it is part of, null on the host, where the call returns when it is
  /// done.
  virtual void all_reduce(const Tensor& data, void* stream) = 0;
  /// data becomes what rank 0 holds there.
  virtual void broadcast(const Tensor& data, void* stream) = 0;

  /// Ends the talk, from any thread: ranks that wait in a call, and all later calls, get an Error.
  virtual void abort() noexcept = 0;
  /// Whether calls may be recorded with the work around them and replayed.
  virtual bool recordable() const { return false; }

 private:
  int rank_, size_;
};

}  // namespace mamba2
