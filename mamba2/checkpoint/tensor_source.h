#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "mamba2/tensor/tensor.h"

namespace mamba2 {

/// What a container says about one tensor without reading its values.
struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::string_view file;  ///< path of the file (of the shard) that holds the values; lives as long as the source
  std::size_t bytes = 0;
};

/// More tensors, and more bytes of all names together, than any published model has; what bounds the memory that a
/// hostile header can ask for.
inline constexpr std::size_t max_tensors = 1U << 16;
inline constexpr std::size_t max_name_bytes = 8U << 20;

/// A checkpoint's tensors by name, whatever container they lie in.  Names are unique, valid UTF-8 and free of control
/// characters.  All members may be called from several threads at once.
class TensorSource {
 public:
  TensorSource(const TensorSource&) = delete;
  TensorSource& operator=(const TensorSource&) = delete;
  virtual ~TensorSource() = default;

  /// "safetensors", "pytorch" or "gguf".
  virtual std::string_view format() const = 0;

  /// In the order in which the values lie in the file; shards one after the other by name.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }

  /// nullptr where there is none; takes constant time.
  const TensorInfo* find(std::string_view name) const;

  /// Contiguous, row-major, aligned to its element size, read-only (writing to it ends the process).  A view of the
  /// mapped file wherever that is possible, else of a copy that is made on the first call and that the source owns.
  /// Lives as long as the source.  Throws Error where there is no such tensor.
  Tensor read(std::string_view name) const;

  /// What read() gives a view of, for read_ahead() and release_pages(); empty where it gives a copy.  Throws Error
  /// where there is no such tensor.
  std::span<const std::byte> mapped(std::string_view name) const;

 protected:
  /// `tensors` of which those without a file lie in `path`.  Throws Error where a name appears twice or can't be
  /// printed.
  TensorSource(std::string path, std::vector<TensorInfo> tensors);

  virtual Tensor read_at(std::size_t index) const = 0;
  virtual std::span<const std::byte> mapped_at(std::size_t) const { return {}; }

 private:
  std::size_t index_of(std::string_view name) const;

  const std::string path_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string_view, std::size_t> index_of_;  // the keys are tensors_'s names
};

/// Opens a folder or a file: safetensors (one file; shards by model.safetensors.index.json), PyTorch's
/// pytorch_model.bin (zip and pickle, read as data; shards by pytorch_model.bin.index.json), GGUF or an index file
/// itself.  A file's container is told by its content.  Reads metadata only.  Throws Error that names the file and what
/// is wrong.
std::unique_ptr<TensorSource> open_tensors(const std::string& path);

/// Contiguous copies of tensors that can't be used where they lie, made once each and kept.
class TensorCopies {
 public:
  /// The copy made for `index`; the first call makes it from `from`, any strides and alignment.
  Tensor of(std::size_t index, const Tensor& from) const;

 private:
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::size_t, HostTensor> copies_;
};

}  // namespace mamba2
