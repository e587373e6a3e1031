#pragma once

#include <cstddef>
#include <memory>

namespace mamba2::cpu {

/// Memory for weights that are laid out anew: aligned to a cache line, uninitialised, so that the threads which fill it
/// also take its pages, and where it is large in huge pages, whose first touch costs a fraction.
class PackedMemory {
 public:
  /// Throws Error that says how many bytes were wanted where there are none.
  explicit PackedMemory(std::size_t bytes);

  std::byte* data() const { return memory_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    explicit Free(std::size_t allocated_with) : alignment(allocated_with) {}
    void operator()(std::byte* memory) const;
    std::size_t alignment;
  };
  std::unique_ptr<std::byte, Free> memory_{nullptr, Free(1)};
  std::size_t size_ = 0;
};

}  // namespace mamba2::cpu
