#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/base/file.h"
#include "mamba2/checkpoint/tensor_source.h"

namespace mamba2 {

/// A tensor of a torch.save file: a view of a storage's bytes in that file.
struct TorchTensor {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::array<std::int64_t, Shape::max_rank> strides{};  ///< in elements, 0 or more
  std::size_t begin = 0;                                ///< byte of the file at which element (0, 0, ...) lies
  /// Every element lies inside its storage.
};

/// Bytes [begin, begin + size) of the file.
struct ByteRange {
  std::size_t begin = 0, size = 0;
};

/// Where the storage of that key lies; throws Error where there is none.
using StorageLookup = std::function<ByteRange(std::string_view key)>;

/// Reads the pickle of a state dict, {name: tensor, ...}, or of a dict that holds one as 'state_dict',
/// 'model_state_dict', 'model' or 'module'.  The pickle is data: the only globals are torch._utils._rebuild_tensor_v2
/// and _v3, _rebuild_parameter, collections.OrderedDict, torch's storages and dtypes.  Throws Error that starts with
/// source.
std::vector<TorchTensor> parse_state_dict(std::span<const std::byte> pickle, std::string_view source,
                                          const StorageLookup& storage);

/// Reads the directory and the pickle of a file that torch.save wrote (version 1.6 and later).  Throws Error that
/// starts with source.
std::vector<TorchTensor> parse_pytorch(std::span<const std::byte> file, std::string_view source);

/// One torch.save file, mapped.
class PyTorchFile : public TensorSource {
 public:
  explicit PyTorchFile(const std::string& path) : PyTorchFile(MappedFile(path)) {}
  explicit PyTorchFile(MappedFile file);

  std::string_view format() const override { return "pytorch"; }

 protected:
  Tensor read_at(std::size_t index) const override;
  std::span<const std::byte> mapped_at(std::size_t index) const override;

 private:
  struct Place {
    std::array<std::int64_t, Shape::max_rank> strides;
    std::size_t begin;
  };

  PyTorchFile(MappedFile&& file, std::vector<TorchTensor>&& tensors);

  /// The tensor in the file, with any strides and alignment.
  Tensor stored_at(std::size_t index) const;
  /// Whether it can be used where it lies.
  bool is_view(std::size_t index) const;

  MappedFile file_;
  std::vector<Place> places_;  // by tensor
  TensorCopies copies_;
};

}  // namespace mamba2
