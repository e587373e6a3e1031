#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/base/file.h"
#include "mamba2/base/gguf_metadata.h"
#include "mamba2/checkpoint/tensor_source.h"

namespace mamba2 {

/// One tensor as a GGUF file describes it; the shape is ours, outermost dimension first.
struct GgufEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::size_t begin = 0, end = 0;  ///< the values' bytes in the file
};

/// Reads the tensors' descriptions, which follow the metadata, and checks them: known dtypes, whole blocks, offsets
/// aligned as general.alignment says (32 where absent), ranges inside the file, none overlapping, no name twice.
/// Returned in the order of begin.  Throws Error that starts with the metadata's source.
std::vector<GgufEntry> parse_gguf_tensors(std::span<const std::byte> file, const GgufMetadata& metadata);

/// GGUF's number of a dtype, for a writer.  Throws Error for a dtype it has no number for.
std::uint32_t gguf_type_number(DType dtype);

/// One GGUF file of architecture mamba2, mapped, its tensors under Hugging Face's names and shapes
/// (backbone.layers.0.mixer.in_proj.weight for blk.0.ssm_in.weight).  The file holds A = -exp(A_log): A_log is computed
/// when it is read.  Tensors that no Mamba-2 model has keep their names.
class GgufFile : public TensorSource {
 public:
  explicit GgufFile(const std::string& path) : GgufFile(MappedFile(path)) {}
  explicit GgufFile(MappedFile file);

  std::string_view format() const override { return "gguf"; }

 protected:
  Tensor read_at(std::size_t index) const override;
  std::span<const std::byte> mapped_at(std::size_t index) const override;

 private:
  GgufFile(MappedFile&& file, std::vector<GgufEntry>&& entries);

  MappedFile file_;
  std::vector<GgufEntry> entries_;  // by tensor
  TensorCopies copies_;
};

/// Hugging Face's name of a tensor that GGUF names, or its own where there is none; and the way back, empty where GGUF
/// has no name for it.
std::string name_from_gguf(std::string_view name);
std::string name_to_gguf(std::string_view name);

}  // namespace mamba2
