#pragma once

#include <cstddef>
#include <memory>

namespace mamba2::cpu {

/// Memory aligned to a cache line, uninitialised, so that the threads which fill it also take its pages; where it is
/// large in huge pages: their first touch costs a fraction, and reading it at the memory's rate needs few translations.
/// Throws Error that says how many bytes were wanted where there are none.
std::byte* allocate_memory(std::size_t bytes);
/// Frees what allocate_memory() gave for so many bytes.
void free_memory(void* memory, std::size_t bytes) noexcept;

/// Such memory, for weights that are laid out anew.
class PackedMemory {
 public:
  explicit PackedMemory(std::size_t bytes) : memory_(allocate_memory(bytes), Free(bytes)) {}

  std::byte* data() const { return memory_.get(); }
  std::size_t size() const { return memory_.get_deleter().bytes; }

 private:
  struct Free {
    explicit Free(std::size_t allocated) : bytes(allocated) {}
    void operator()(std::byte* memory) const noexcept { free_memory(memory, bytes); }
    std::size_t bytes;
  };
  std::unique_ptr<std::byte, Free> memory_;
};

}  // namespace mamba2::cpu
