#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/base/file.h"
#include "mamba2/tensor/tensor.h"

namespace mamba2 {

/// A tensor that is to be written: its name and what it is written as.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;

  std::size_t bytes() const { return bytes_for(dtype, shape.elements()); }
};

/// The header's __metadata__; Hugging Face's loaders ask for this entry.
using SafetensorsMetadata = std::map<std::string, std::string>;
inline const SafetensorsMetadata default_safetensors_metadata{{"format", "pt"}};

/// Writes one safetensors file, tensor after tensor, without holding it in memory.  The same tensors give the same
/// bytes.  The file is complete or absent: without finish() and commit() nothing appears.
class SafetensorsWriter {
 public:
  /// Lays the file out: tensors with wider elements first, otherwise in the order given, so that every tensor is
  /// aligned to its element size.  Throws Error for names that appear twice, are '__metadata__' or invalid UTF-8.
  SafetensorsWriter(std::string path, std::vector<TensorSpec> tensors,
                    const SafetensorsMetadata& metadata = default_safetensors_metadata);

  /// In the order in which write() wants them.
  const std::vector<TensorSpec>& tensors() const { return tensors_; }

  /// Writes the next tensor, a host tensor of its shape, any strides, and its dtype or another floating one, which is
  /// rounded to nearest.  Throws Error where it does not fit the layout or can't be written.
  void write(const Tensor& tensor);

  /// Brings all bytes to disk, still under a temporary name.  Throws Error where tensors are missing.
  void finish();
  /// Makes the finished file appear.
  void commit();

 private:
  AtomicFile file_;
  std::string path_;
  std::vector<TensorSpec> tensors_;
  std::size_t next_ = 0;
};

}  // namespace mamba2
