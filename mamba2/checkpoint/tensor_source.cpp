#include "mamba2/checkpoint/tensor_source.h"

#include <utility>

#include "mamba2/base/error.h"

namespace mamba2 {

TensorSource::TensorSource(std::string path, std::vector<TensorInfo> tensors)
    : path_(std::move(path)), tensors_(std::move(tensors)) {
  index_of_.reserve(tensors_.size());
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    TensorInfo& tensor = tensors_[i];
    if (tensor.file.empty()) tensor.file = path_;
    const std::string shown = printable(tensor.name);
    require(printable(tensor.name, tensor.name.size()) == tensor.name,
            "{}: tensor name '{}' holds control characters or invalid UTF-8", tensor.file, shown);
    require(index_of_.emplace(tensor.name, i).second, "{}: tensor '{}' appears twice", tensor.file, shown);
  }
}

const TensorInfo* TensorSource::find(std::string_view name) const {
  const auto found = index_of_.find(name);
  return found == index_of_.end() ? nullptr : &tensors_[found->second];
}

std::size_t TensorSource::index_of(std::string_view name) const {
  const auto found = index_of_.find(name);
  require(found != index_of_.end(), "{}: there is no tensor '{}'", path_, printable(name));
  return found->second;
}

Tensor TensorSource::read(std::string_view name) const {
  return read_at(index_of(name));
}

std::span<const std::byte> TensorSource::mapped(std::string_view name) const {
  return mapped_at(index_of(name));
}

Tensor TensorCopies::of(std::size_t index, const Tensor& from) const {
  const std::lock_guard lock(mutex_);
  const auto [found, is_new] = copies_.try_emplace(index);
  if (is_new) {
    HostTensor copy(from.dtype, from.shape);
    convert(from, copy);
    found->second = std::move(copy);
  }
  return found->second;
}

}  // namespace mamba2
