#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/base/gguf_metadata.h"

namespace mamba2 {

/// Keys and values for a GGUF file that is to be written, version 3, in the order in which they are set.  No key is set
/// twice (Error), and every key and value is one that GgufMetadata reads.
class GgufMetadataBuilder {
 public:
  void set_u32(std::string_view key, std::uint32_t value);
  void set_f32(std::string_view key, float value);
  void set_flag(std::string_view key, bool value);
  void set_text(std::string_view key, std::string_view value);
  void set_texts(std::string_view key, std::span<const std::string> values);
  void set_i32s(std::string_view key, std::span<const std::int32_t> values);
  void set_f32s(std::string_view key, std::span<const float> values);
  /// Takes a value of another file as it is, of whatever type; nothing where that has none.
  void copy(const GgufMetadata& from, std::string_view key);

  bool has(std::string_view key) const { return places_.find(key) != places_.end(); }

  /// The file's bytes up to the description of its tensors.
  std::string head(std::uint64_t tensor_count) const;

 private:
  void add(std::string_view key, std::string_view type_and_value);
  template <class T>
  void add_array(std::string_view key, GgufType type, std::span<const T> values);

  std::string entries_;
  std::map<std::string, std::size_t, std::less<>> places_;
};

/// A length of 64 bits and the text, as GGUF holds every string.
std::string gguf_text(std::string_view text);

}  // namespace mamba2
