#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mamba2/checkpoint/tensor_source.h"
#include "mamba2/model/config.h"
#include "mamba2/model/split.h"
#include "mamba2/model/weights.h"

namespace mamba2 {

/// The tensors of a checkpoint under their canonical names: "model." prefixes dropped, "backbone." added where the
/// backbone was saved alone, mamba_ssm's `backbone.embedding.weight` read as `backbone.embeddings.weight`.
class CanonicalTensors {
 public:
  /// Error where two tensors have one canonical name.
  explicit CanonicalTensors(const TensorSource& source);
  const TensorInfo* find(const std::string& canonical) const;
  Tensor read(const std::string& canonical) const;
  std::span<const std::byte> mapped(const std::string& canonical) const;
  const std::map<std::string, const TensorInfo*>& all() const { return by_name_; }
  /// The file to name where a tensor is missing.
  std::string_view file() const;

 private:
  const TensorSource& source_;
  std::map<std::string, const TensorInfo*> by_name_;
};

/// Sets what only the file can tell: whether the attention's convolution has a bias, how wide the MLP is, whether the
/// head is tied.
void adjust_to_tensors(Mamba2Config& config, const CanonicalTensors& tensors);

/// Checks every tensor against the config, then prepares them on the backends, each rank's part on its own: the
/// backbone, lm_head where it is not tied, a classification head where there is one.  Matrices are held as dtype, or as
/// stored where it is absent; vectors in the activations' dtype.  A part of quantised columns that begins or ends amid
/// a block is quantised anew.  Throws Error naming file, tensor, expected and found shape; nothing was allocated that
/// the file does not hold then.
std::vector<ModelWeights> load_weights(const Mamba2Config& config, const Split& split, const CanonicalTensors& tensors,
                                       std::span<Backend* const> ranks, std::optional<DType> dtype);

}  // namespace mamba2
