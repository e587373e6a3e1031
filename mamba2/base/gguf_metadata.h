#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mamba2 {

/// Types of GGUF metadata values, as the format numbers them.
enum class GgufType : std::uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12
};

inline constexpr std::uint32_t oldest_gguf_version = 2, newest_gguf_version = 3;
inline constexpr std::string_view gguf_magic = "GGUF";

/// Reads a file's bytes from front to back; every read is checked against its end.
class GgufCursor {
 public:
  GgufCursor(std::span<const std::byte> file, std::string_view source) : file_(file), source_(source) {}

  std::uint32_t u32(std::string_view what);
  std::uint64_t u64(std::string_view what);
  /// A length and that many bytes, at most max_bytes.
  std::string_view text(std::string_view what, std::uint64_t max_bytes);
  std::span<const std::byte> take(std::uint64_t bytes, std::string_view what);
  std::size_t position() const { return position_; }
  std::size_t left() const { return file_.size() - position_; }

 private:
  std::span<const std::byte> file_;
  std::string_view source_;
  std::size_t position_ = 0;
};

/// The head and the key-value part of a GGUF file (github.com/ggml-org/ggml, docs/gguf.md), versions 2 and 3,
/// little-endian.  Values stay where they lie: the file's bytes must outlive this.
class GgufMetadata {
 public:
  /// Checks all keys and values: known types, lengths inside the file, no key twice, no nested arrays.  Throws Error
  /// that starts with source and names the key.
  GgufMetadata(std::span<const std::byte> file, std::string source);

  const std::string& source() const { return source_; }
  std::uint64_t tensor_count() const { return tensor_count_; }
  /// Where the metadata ends and the tensors' descriptions begin.
  std::size_t end() const { return end_; }

  bool has(std::string_view key) const { return values_.find(key) != values_.end(); }
  std::vector<std::string> keys() const;

  /// Nothing where the key is absent; Error that names key and type where its value is of another kind or range.
  std::optional<std::int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> flag(std::string_view key) const;
  std::optional<std::string_view> text(std::string_view key) const;
  std::optional<std::vector<std::string_view>> texts(std::string_view key) const;
  std::optional<std::vector<std::int64_t>> integers(std::string_view key) const;
  std::optional<std::vector<double>> numbers(std::string_view key) const;
  /// Elements of an array of any type.
  std::optional<std::uint64_t> count(std::string_view key) const;
  /// A value of any type as the file holds it, its type first.
  std::optional<std::string> encoded(std::string_view key) const;

 private:
  struct Value {
    GgufType type = GgufType::u8;           // of the value or, in an array, of its elements
    std::optional<std::uint64_t> elements;  // of an array
    std::span<const std::byte> bytes;
  };

  Value read_value(GgufCursor& cursor, std::string_view key) const;
  const Value* find(std::string_view key) const;
  const Value* find_array(std::string_view key) const;
  [[noreturn]] void wrong_type(std::string_view key, const Value& value, std::string_view expected) const;

  std::string source_;
  std::uint64_t tensor_count_ = 0;
  std::size_t end_ = 0;
  std::map<std::string, Value, std::less<>> values_;
};

/// Whether a file starts with GGUF's magic; false where it can't be read.
bool is_gguf_file(const std::string& path);

}  // namespace mamba2
