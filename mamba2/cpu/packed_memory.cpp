#include "mamba2/cpu/packed_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "mamba2/base/error.h"

namespace mamba2::cpu {
namespace {

constexpr std::size_t cache_line = 64;
constexpr std::size_t huge_page = std::size_t{2} << 20;

}  // namespace

void PackedMemory::Free::operator()(std::byte* memory) const {
  ::operator delete (memory, std::align_val_t{alignment});
}

PackedMemory::PackedMemory(std::size_t bytes) : size_(bytes) {
  const std::size_t alignment = bytes >= huge_page ? huge_page : cache_line;
  auto* const memory =
      static_cast<std::byte*>(::operator new (std::max(bytes, cache_line), std::align_val_t{alignment}, std::nothrow));
  require(memory != nullptr, "out of memory: {} bytes are wanted", bytes);
  memory_ = std::unique_ptr<std::byte, Free>(memory, Free(alignment));
  // Whole ones alone: the rest of the last would be memory that nobody uses.
  const std::size_t in_huge_pages = bytes / huge_page * huge_page;
  if (in_huge_pages != 0) ::madvise(memory, in_huge_pages, MADV_HUGEPAGE);  // refused: small pages serve too
}

}  // namespace mamba2::cpu
