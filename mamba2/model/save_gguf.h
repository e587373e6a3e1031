#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "mamba2/base/gguf_builder.h"
#include "mamba2/checkpoint/tensor_source.h"
#include "mamba2/model/config.h"

namespace mamba2 {

struct GgufSaveOptions {
  std::optional<DType> dtype;                                     ///< of most matrices; absent: as they are stored
  int threads = 0;                                                ///< that quantise; 0: one a processor
  std::function<void(std::uint64_t, std::uint64_t)> on_progress;  ///< gets bytes written and in total
};

/// What became of a tensor.
struct SavedGgufTensor {
  std::string name;  ///< the file's
  DType stored = DType::f32, dtype = DType::f32;
  Shape shape;                          ///< the file's, outermost dimension first
  double rms_error = 0, max_error = 0;  ///< of the written values against the stored ones
  double rms = 0;                       ///< of the stored values
};

/// The config under llama.cpp's keys: general.*, mamba2.*, and the ids of special tokens that it names.  Throws Error
/// that names the field that GGUF's mamba2 has no word for: attention and MLP layers, a classification head, biases,
/// an activation other than SiLU, a limited time step, a norm that llama.cpp computes differently.
GgufMetadataBuilder config_to_gguf(const Mamba2Config& config, std::optional<DType> dtype);

/// Writes a model to one GGUF file of architecture mamba2, complete or absent.  Matrices get the dtype that
/// held_dtype() gives them; everything else is f32: norms, the convolution, dt_bias, D and A = -exp(A_log), which takes
/// A_log's place.  `metadata` is config_to_gguf's and, where there is one, the tokenizer's (add_gguf_tokenizer). Throws
/// Error naming the tensor for values that the dtype can't hold.
std::vector<SavedGgufTensor> save_gguf(const Mamba2Config& config, const TensorSource& source, const std::string& path,
                                       const GgufMetadataBuilder& metadata, const GgufSaveOptions& options = {});

}  // namespace mamba2
