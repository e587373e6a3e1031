#include "mamba2/base/gguf_metadata.h"

#include <array>
#include <cstring>
#include <fstream>
#include <limits>
#include <utility>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

/// More than any published file has; keys are at most this long by the format.
constexpr std::uint64_t max_keys = 1U << 16, max_key_bytes = (1U << 16) - 1;
constexpr std::uint64_t max_text_bytes = 64U << 20;

struct TypeInfo {
  std::string_view name;
  std::size_t bytes;  // 0: it varies
};

constexpr std::array<TypeInfo, 13> types{{{"u8", 1},
                                          {"i8", 1},
                                          {"u16", 2},
                                          {"i16", 2},
                                          {"u32", 4},
                                          {"i32", 4},
                                          {"f32", 4},
                                          {"bool", 1},
                                          {"string", 0},
                                          {"array", 0},
                                          {"u64", 8},
                                          {"i64", 8},
                                          {"f64", 8}}};

const TypeInfo& info_of(GgufType type) {
  return types[static_cast<std::size_t>(type)];
}

template <class T>
T load(std::span<const std::byte> bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

/// Nothing where the type is no integer or the value is over int64's range.
std::optional<std::int64_t> integer_at(GgufType type, std::span<const std::byte> bytes) {
  switch (type) {
    case GgufType::u8: return load<std::uint8_t>(bytes);
    case GgufType::i8: return load<std::int8_t>(bytes);
    case GgufType::u16: return load<std::uint16_t>(bytes);
    case GgufType::i16: return load<std::int16_t>(bytes);
    case GgufType::u32: return load<std::uint32_t>(bytes);
    case GgufType::i32: return load<std::int32_t>(bytes);
    case GgufType::i64: return load<std::int64_t>(bytes);
    case GgufType::u64: {
      const auto value = load<std::uint64_t>(bytes);
      if (value > std::numeric_limits<std::int64_t>::max()) return std::nullopt;
      return static_cast<std::int64_t>(value);
    }
    default: return std::nullopt;
  }
}

std::optional<double> number_at(GgufType type, std::span<const std::byte> bytes) {
  if (type == GgufType::f32) return static_cast<double>(load<float>(bytes));
  if (type == GgufType::f64) return load<double>(bytes);
  const auto integer = integer_at(type, bytes);
  if (!integer) return std::nullopt;
  return static_cast<double>(*integer);
}

}  // namespace

std::span<const std::byte> GgufCursor::take(std::uint64_t bytes, std::string_view what) {
  require(bytes <= left(), "{}: {} takes {} bytes from byte {} on, the file ends at {}; is it cut off?", source_, what,
          bytes, position_, file_.size());
  const auto taken = file_.subspan(position_, static_cast<std::size_t>(bytes));
  position_ += taken.size();
  return taken;
}

std::uint32_t GgufCursor::u32(std::string_view what) {
  return load<std::uint32_t>(take(sizeof(std::uint32_t), what));
}

std::uint64_t GgufCursor::u64(std::string_view what) {
  return load<std::uint64_t>(take(sizeof(std::uint64_t), what));
}

std::string_view GgufCursor::text(std::string_view what, std::uint64_t max_bytes) {
  const std::uint64_t length = u64(what);
  require(length <= max_bytes, "{}: {} is {} bytes long, expected at most {}", source_, what, length, max_bytes);
  const auto bytes = take(length, what);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

GgufMetadata::GgufMetadata(std::span<const std::byte> file, std::string source) : source_(std::move(source)) {
  GgufCursor cursor(file, source_);
  const auto magic = cursor.take(gguf_magic.size(), "the magic");
  require(std::memcmp(magic.data(), gguf_magic.data(), magic.size()) == 0, "{}: is no GGUF file", source_);
  const std::uint32_t version = cursor.u32("the version");
  require(version >= oldest_gguf_version && version <= newest_gguf_version,
          "{}: is GGUF version {}, expected {} or {} (little-endian)", source_, version, oldest_gguf_version,
          newest_gguf_version);
  tensor_count_ = cursor.u64("the number of tensors");
  const std::uint64_t keys = cursor.u64("the number of keys");
  require(keys <= max_keys, "{}: has {} metadata keys, expected at most {}", source_, keys, max_keys);
  for (std::uint64_t i = 0; i < keys; ++i) {
    const std::string key(cursor.text("a metadata key", max_key_bytes));
    require(!key.empty() && printable(key, key.size()) == key,
            "{}: metadata key '{}' is empty or holds control characters or invalid UTF-8", source_, printable(key));
    require(values_.emplace(key, read_value(cursor, key)).second, "{}: metadata key '{}' appears twice", source_,
            printable(key));
  }
  end_ = cursor.position();
}

GgufMetadata::Value GgufMetadata::read_value(GgufCursor& cursor, std::string_view key) const {
  const std::string what = fmt::format("the value of metadata key '{}'", printable(key));
  auto read_type = [&] {
    const std::uint32_t type = cursor.u32(what);
    require(type < types.size(), "{}: {} has type {}, expected 0 to {}", source_, what, type, types.size() - 1);
    return static_cast<GgufType>(type);
  };
  Value value;
  value.type = read_type();
  std::uint64_t count = 1;
  if (value.type == GgufType::array) {
    value.type = read_type();
    require(value.type != GgufType::array, "{}: {} is an array of arrays, which is not supported", source_, what);
    count = cursor.u64(what);
    value.elements = count;
  }
  if (const std::size_t bytes = info_of(value.type).bytes; bytes != 0) {
    require(count <= cursor.left() / bytes, "{}: {} has {} elements of {} bytes, the file has {} bytes left", source_,
            what, count, bytes, cursor.left());
    value.bytes = cursor.take(count * bytes, what);
    return value;
  }
  const std::size_t most = cursor.left();
  GgufCursor walked = cursor;
  for (std::uint64_t i = 0; i < count; ++i) walked.text(what, max_text_bytes);  // each takes 8 bytes or throws
  value.bytes = cursor.take(most - walked.left(), what);
  return value;
}

std::vector<std::string> GgufMetadata::keys() const {
  std::vector<std::string> names;
  for (const auto& [key, value] : values_) names.push_back(key);
  return names;
}

const GgufMetadata::Value* GgufMetadata::find(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

const GgufMetadata::Value* GgufMetadata::find_array(std::string_view key) const {
  const Value* value = find(key);
  if (value != nullptr && !value->elements) wrong_type(key, *value, "an array");
  return value;
}

void GgufMetadata::wrong_type(std::string_view key, const Value& value, std::string_view expected) const {
  fail("{}: metadata key '{}' is {}{}, expected {}", source_, printable(key), value.elements ? "an array of " : "",
       info_of(value.type).name, expected);
}

std::optional<std::int64_t> GgufMetadata::integer(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto found = value->elements ? std::nullopt : integer_at(value->type, value->bytes);
  if (!found) wrong_type(key, *value, "an integer that 63 bits hold");
  return found;
}

std::optional<double> GgufMetadata::number(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto found = value->elements ? std::nullopt : number_at(value->type, value->bytes);
  if (!found) wrong_type(key, *value, "a number");
  return found;
}

std::optional<bool> GgufMetadata::flag(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->elements || value->type != GgufType::boolean) wrong_type(key, *value, "a bool");
  return load<std::uint8_t>(value->bytes) != 0;
}

std::optional<std::string_view> GgufMetadata::text(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->elements || value->type != GgufType::string) wrong_type(key, *value, "a string");
  return GgufCursor(value->bytes, source_).text(key, max_text_bytes);
}

std::optional<std::vector<std::string_view>> GgufMetadata::texts(std::string_view key) const {
  const Value* value = find_array(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::string) wrong_type(key, *value, "an array of strings");
  std::vector<std::string_view> texts;
  GgufCursor cursor(value->bytes, source_);
  for (std::uint64_t i = 0; i < *value->elements; ++i) texts.push_back(cursor.text(key, max_text_bytes));
  return texts;
}

std::optional<std::vector<std::int64_t>> GgufMetadata::integers(std::string_view key) const {
  const Value* value = find_array(key);
  if (value == nullptr) return std::nullopt;
  std::vector<std::int64_t> integers;
  const std::size_t bytes = info_of(value->type).bytes;
  for (std::size_t i = 0; i < *value->elements; ++i) {
    const auto found = bytes == 0 ? std::nullopt : integer_at(value->type, value->bytes.subspan(i * bytes, bytes));
    if (!found) wrong_type(key, *value, "an array of integers that 63 bits hold");
    integers.push_back(*found);
  }
  return integers;
}

std::optional<std::vector<double>> GgufMetadata::numbers(std::string_view key) const {
  const Value* value = find_array(key);
  if (value == nullptr) return std::nullopt;
  std::vector<double> numbers;
  const std::size_t bytes = info_of(value->type).bytes;
  for (std::size_t i = 0; i < *value->elements; ++i) {
    const auto found = bytes == 0 ? std::nullopt : number_at(value->type, value->bytes.subspan(i * bytes, bytes));
    if (!found) wrong_type(key, *value, "an array of numbers");
    numbers.push_back(*found);
  }
  return numbers;
}

std::optional<std::uint64_t> GgufMetadata::count(std::string_view key) const {
  const Value* value = find_array(key);
  if (value == nullptr) return std::nullopt;
  return value->elements;
}

std::optional<std::string> GgufMetadata::encoded(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  std::string bytes;
  auto append = [&bytes](const auto number) { bytes.append(reinterpret_cast<const char*>(&number), sizeof number); };
  if (value->elements) append(static_cast<std::uint32_t>(GgufType::array));
  append(static_cast<std::uint32_t>(value->type));
  if (value->elements) append(*value->elements);
  return bytes.append(reinterpret_cast<const char*>(value->bytes.data()), value->bytes.size());
}

bool is_gguf_file(const std::string& path) {
  std::array<char, gguf_magic.size()> start{};
  std::ifstream file(path, std::ios::binary);
  return file.read(start.data(), start.size()) && std::string_view(start.data(), start.size()) == gguf_magic;
}

}  // namespace mamba2
