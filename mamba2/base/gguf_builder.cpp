#include "mamba2/base/gguf_builder.h"

#include <cstring>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

/// Little-endian as the host.
template <class T>
std::string bytes_of(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

std::string number_of(GgufType type) {
  return bytes_of(static_cast<std::uint32_t>(type));
}

std::string array_head(GgufType type, std::size_t elements) {
  return number_of(GgufType::array) + number_of(type) + bytes_of(static_cast<std::uint64_t>(elements));
}

}  // namespace

std::string gguf_text(std::string_view text) {
  return bytes_of(static_cast<std::uint64_t>(text.size())).append(text);
}

void GgufMetadataBuilder::add(std::string_view key, std::string_view type_and_value) {
  require(!key.empty() && printable(key, key.size()) == key, "metadata key '{}' can't be written", printable(key));
  require(places_.emplace(std::string(key), places_.size()).second, "metadata key '{}' is set twice", key);
  entries_ += gguf_text(key);
  entries_ += type_and_value;
}

template <class T>
void GgufMetadataBuilder::add_array(std::string_view key, GgufType type, std::span<const T> values) {
  std::string bytes = array_head(type, values.size());
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  add(key, bytes);
}

void GgufMetadataBuilder::set_u32(std::string_view key, std::uint32_t value) {
  add(key, number_of(GgufType::u32) + bytes_of(value));
}

void GgufMetadataBuilder::set_f32(std::string_view key, float value) {
  add(key, number_of(GgufType::f32) + bytes_of(value));
}

void GgufMetadataBuilder::set_flag(std::string_view key, bool value) {
  add(key, number_of(GgufType::boolean) + bytes_of(static_cast<std::uint8_t>(value ? 1 : 0)));
}

void GgufMetadataBuilder::set_text(std::string_view key, std::string_view value) {
  add(key, number_of(GgufType::string) + gguf_text(value));
}

void GgufMetadataBuilder::set_texts(std::string_view key, std::span<const std::string> values) {
  std::string bytes = array_head(GgufType::string, values.size());
  for (const std::string& value : values) bytes += gguf_text(value);
  add(key, bytes);
}

void GgufMetadataBuilder::set_i32s(std::string_view key, std::span<const std::int32_t> values) {
  add_array(key, GgufType::i32, values);
}

void GgufMetadataBuilder::set_f32s(std::string_view key, std::span<const float> values) {
  add_array(key, GgufType::f32, values);
}

void GgufMetadataBuilder::copy(const GgufMetadata& from, std::string_view key) {
  if (const auto value = from.encoded(key)) add(key, *value);
}

std::string GgufMetadataBuilder::head(std::uint64_t tensor_count) const {
  return std::string(gguf_magic) + bytes_of(newest_gguf_version) + bytes_of(tensor_count) +
         bytes_of(static_cast<std::uint64_t>(places_.size())) + entries_;
}

}  // namespace mamba2
