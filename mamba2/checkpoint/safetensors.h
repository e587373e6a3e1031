#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/base/file.h"
#include "mamba2/checkpoint/tensor_source.h"

namespace mamba2 {

/// The largest header that the format's own library takes.
inline constexpr std::size_t max_safetensors_header_bytes = 100'000'000;

/// A dtype as the safetensors format spells it: "F32", "BF16", "BOOL", ...
std::string_view safetensors_name(DType dtype);

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::size_t begin = 0, end = 0;  ///< the values' bytes in the file
};

/// Reads the header of a safetensors file (github.com/huggingface/safetensors, README "Format") and checks it against
/// the format and the file's size: ranges inside the file, as long as the shape says, neither overlapping nor with
/// holes between them.  Returned in the order of begin.  Throws Error that starts with source.
std::vector<SafetensorsEntry> parse_safetensors(std::span<const std::byte> file, std::string_view source);

/// One safetensors file, mapped.
class SafetensorsFile : public TensorSource {
 public:
  explicit SafetensorsFile(const std::string& path) : SafetensorsFile(MappedFile(path)) {}
  explicit SafetensorsFile(MappedFile file);

  std::string_view format() const override { return "safetensors"; }

 protected:
  Tensor read_at(std::size_t index) const override;
  std::span<const std::byte> mapped_at(std::size_t index) const override;

 private:
  SafetensorsFile(MappedFile&& file, std::vector<SafetensorsEntry>&& entries);

  MappedFile file_;
  std::vector<std::size_t> begins_;  // by tensor
  TensorCopies copies_;
};

}  // namespace mamba2
