#pragma once

#include <bit>
#include <cstddef>
#include <cstring>
#include <span>

namespace mamba2 {

static_assert(std::endian::native == std::endian::little, "checkpoints are little-endian and viewed in place");

/// The unsigned integer stored at `offset`; the caller has checked that it lies inside.
template <class Unsigned>
Unsigned load_little_endian(std::span<const std::byte> bytes, std::size_t offset) {
  Unsigned value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

}  // namespace mamba2
