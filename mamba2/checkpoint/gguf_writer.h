#pragma once

#include <string>
#include <vector>

#include "mamba2/base/file.h"
#include "mamba2/base/gguf_builder.h"
#include "mamba2/checkpoint/safetensors_writer.h"

namespace mamba2 {

/// Writes one GGUF file, tensor after tensor, without holding it in memory.  Names and shapes are the file's own (see
/// name_to_gguf).  The same metadata and tensors give the same bytes.  The file is complete or absent: without commit()
/// nothing appears.
class GgufWriter {
 public:
  /// Lays the file out in the order given, each tensor aligned to 32 bytes.  Throws Error for a name that appears twice
  /// or is over llama.cpp's 63 bytes, a shape of no or over 4 dimensions, a dtype that GGUF has no number for.
  GgufWriter(std::string path, const GgufMetadataBuilder& metadata, std::vector<TensorSpec> tensors);

  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  /// Of all tensors and the padding between them.
  std::uint64_t data_bytes() const { return data_bytes_; }

  /// Writes rows of the next tensor, which may come in several pieces: contiguous, of its dtype, their bytes a whole
  /// number of its blocks.  A tensor that has all its bytes gives way to the next one.
  void write(const Tensor& rows);

  /// Brings all bytes to disk under the file's own name.  Throws Error where some are missing.
  void commit();

 private:
  void pad();

  AtomicFile file_;
  std::string path_;
  std::vector<TensorSpec> tensors_;
  std::size_t next_ = 0;
  std::uint64_t written_of_next_ = 0, data_bytes_ = 0;
};

}  // namespace mamba2
