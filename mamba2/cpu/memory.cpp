#include "mamba2/cpu/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "mamba2/base/error.h"

namespace mamba2::cpu {
namespace {

constexpr std::size_t cache_line = 64;
constexpr std::size_t huge_page = std::size_t{2} << 20;

std::align_val_t alignment(std::size_t bytes) {
  return std::align_val_t{bytes >= huge_page ? huge_page : cache_line};
}

}  // namespace

std::byte* allocate_memory(std::size_t bytes) {
  auto* const memory =
      static_cast<std::byte*>(::operator new(std::max(bytes, cache_line), alignment(bytes), std::nothrow));
  require(memory != nullptr, "out of memory: {} bytes are wanted", bytes);
  // Whole ones alone: the rest of the last would be memory that nobody uses.
  const std::size_t in_huge_pages = bytes / huge_page * huge_page;
  if (in_huge_pages != 0) ::madvise(memory, in_huge_pages, MADV_HUGEPAGE);  // refused: small pages serve too
  return memory;
}

void free_memory(void* memory, std::size_t bytes) noexcept {
  ::operator delete(memory, alignment(bytes));
}

}  // namespace mamba2::cpu
