#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

#include "mamba2/base/error.h"

namespace mamba2 {

/// One field of a Protocol Buffers message, in the wire format's terms.
struct ProtoField {
  enum class Wire { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };
  std::uint64_t number;
  Wire wire;
  std::uint64_t value;     ///< of varint, fixed64 and fixed32
  std::string_view bytes;  ///< of bytes: a string or a message

  float as_float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(value)); }
  std::int32_t as_int32() const { return static_cast<std::int32_t>(static_cast<std::uint32_t>(value)); }
};

/// Reads a message field by field.  Throws Error that starts with `what` where a field reaches past the message's end
/// or has a wire type that is no longer in use.
class ProtoReader {
 public:
  ProtoReader(std::string_view message, std::string_view what) : rest_(message), size_(message.size()), what_(what) {}

  /// Nothing at the end.
  std::optional<ProtoField> next() {
    if (rest_.empty()) return std::nullopt;
    const std::uint64_t tag = varint();
    ProtoField field{tag >> 3, static_cast<ProtoField::Wire>(tag & 7), 0, {}};
    if (field.number == 0) bad("has a field numbered 0");
    switch (field.wire) {
      case ProtoField::Wire::varint: field.value = varint(); break;
      case ProtoField::Wire::fixed64: field.value = fixed(8); break;
      case ProtoField::Wire::fixed32: field.value = fixed(4); break;
      case ProtoField::Wire::bytes: field.bytes = take(varint()); break;
      default: bad("has a field of an unknown wire type");
    }
    return field;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= std::uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
    bad("has a number of more than 64 bits");
  }

  std::uint64_t fixed(std::size_t bytes) {
    const std::string_view text = take(bytes);
    std::uint64_t value = 0;
    for (std::size_t i = bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(text[i]);
    return value;
  }

  std::string_view take(std::uint64_t bytes) {
    if (bytes > rest_.size()) bad("ends inside a field");
    const std::string_view taken = rest_.substr(0, static_cast<std::size_t>(bytes));
    rest_.remove_prefix(taken.size());
    return taken;
  }

  [[noreturn]] void bad(std::string_view problem) const {
    fail("{} {} (at byte {})", what_, problem, size_ - rest_.size());
  }

  std::string_view rest_;
  std::size_t size_;
  std::string_view what_;
};

}  // namespace mamba2
