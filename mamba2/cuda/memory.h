#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <deque>
#include <vector>

#include "mamba2/tensor/tensor.h"

namespace mamba2::cuda {

/// Device memory of one backend, in the order of its stream.
class Memory {
 public:
  Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory();

  cudaStream_t stream() const { return stream_; }

  /// From a pool; contents are free.  Throws Error that says how much was wanted and how much is free; what is
  /// allocated already stays usable.
  void* allocate(std::size_t bytes);
  void free(void* memory) noexcept;
  /// What allocate() could still give: the device's free memory, and the pool's that nobody has.
  static std::size_t free_bytes();

  /// Equal shapes and dtypes; dimensions but the innermost may be strided.  from_host returns when the host's memory
  /// may be reused, to_host when it holds the result.
  void from_host(const Tensor& host, const Tensor& device);
  void to_host(const Tensor& device, const Tensor& host);
  /// What a tensor holds at this place in the stream; and the oldest of those asked for, waiting for it alone.
  void start_to_host(const Tensor& device);
  void finish_to_host(const Tensor& host);
  void copy(const Tensor& from, const Tensor& to);
  void zero(const Tensor& tensor);

  /// Waits for all work; throws Error for what went wrong in it.
  void finish();

 private:
  /// Pinned memory that a tensor is on its way to.
  struct Download {
    void* pinned = nullptr;
    std::size_t bytes = 0;
    cudaEvent_t done = nullptr;
  };
  bool stage(const Tensor& host, const Tensor& device);
  Download spare_download(std::size_t bytes);

  cudaStream_t stream_ = nullptr;
  std::byte* staging_ = nullptr;  // pinned: small uploads wait here for the device instead of the host for them
  std::size_t staged_ = 0;
  std::deque<Download> downloads_;  // oldest first
  std::vector<Download> spare_;
};

}  // namespace mamba2::cuda
