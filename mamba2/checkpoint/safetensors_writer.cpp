#include "mamba2/checkpoint/safetensors_writer.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/base/json.h"
#include "mamba2/checkpoint/safetensors.h"

namespace mamba2 {
namespace {

/// What is converted at a time; large enough to hide the call, small enough for the cache.
constexpr std::size_t block_bytes = 1U << 20;

void check_names(const std::vector<TensorSpec>& tensors, const std::string& path) {
  std::set<std::string_view> names;
  for (const TensorSpec& tensor : tensors) {
    require(tensor.name != "__metadata__" && printable(tensor.name, tensor.name.size()) == tensor.name,
            "{}: a tensor can't be named '{}'", path, printable(tensor.name));
    require(names.insert(tensor.name).second, "{}: tensor '{}' is to be written twice", path, tensor.name);
  }
}

/// The header's length and the header, padded with spaces so that the data starts at a multiple of 8 bytes.
std::string header_of(const std::vector<TensorSpec>& tensors, const SafetensorsMetadata& metadata,
                      const std::string& path) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  auto& members = header.get_ref<Json::object_t&>();
  std::size_t begin = 0;
  for (const TensorSpec& tensor : tensors) {
    const auto extents = tensor.shape.extents();
    const std::size_t end = begin + tensor.bytes();
    Json entry{{"dtype", safetensors_name(tensor.dtype)},
               {"shape", std::vector<std::int64_t>(extents.begin(), extents.end())},
               {"data_offsets", {begin, end}}};
    // ordered_json's operator[] looks through all members first; the name is known to be new.
    members.Json::object_t::Container::emplace_back(tensor.name, std::move(entry));
    begin = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  require(text.size() <= max_safetensors_header_bytes, "{}: header takes {} bytes, expected at most {}", path,
          text.size(), max_safetensors_header_bytes);
  const auto length = static_cast<std::uint64_t>(text.size());
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof length);  // little-endian as the host
  return bytes += text;
}

std::span<const std::byte> bytes_of(const Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.data), tensor.bytes()};
}

/// Writes a tensor as `dtype`, some rows of the outermost dimension at a time.
void write_converted(AtomicFile& file, const Tensor& tensor, DType dtype) {
  if (tensor.elements() == 0) return;
  if (tensor.dtype == dtype && tensor.contiguous()) return file.write(bytes_of(tensor));
  const std::int64_t row = tensor.rank() == 0 ? 1 : tensor.elements() / tensor.size(0);
  const auto row_bytes = bytes_for(dtype, row);
  if (tensor.rank() > 1 && row_bytes > block_bytes) {
    for (std::int64_t i = 0; i < tensor.size(0); ++i) write_converted(file, tensor[i], dtype);
    return;
  }
  const std::int64_t rows = tensor.rank() == 0 ? 1 : tensor.size(0);
  const std::int64_t step = std::max<std::int64_t>(1, static_cast<std::int64_t>(block_bytes / row_bytes));
  for (std::int64_t i = 0; i < rows; i += step) {
    const Tensor block = tensor.rank() == 0 ? tensor : tensor.slice(0, i, std::min(step, rows - i));
    const HostTensor converted(dtype, block.shape);
    convert(block, converted);
    file.write(bytes_of(converted));
  }
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::string path, std::vector<TensorSpec> tensors,
                                     const SafetensorsMetadata& metadata)
    : file_(path), path_(std::move(path)), tensors_(std::move(tensors)) {
  check_names(tensors_, path_);
  std::stable_sort(tensors_.begin(), tensors_.end(), [](const TensorSpec& a, const TensorSpec& b) {
    return element_size(a.dtype) > element_size(b.dtype);
  });
  file_.write(header_of(tensors_, metadata, path_));
}

void SafetensorsWriter::write(const Tensor& tensor) {
  require(next_ < tensors_.size(), "{}: all its {} tensors are written", path_, tensors_.size());
  const TensorSpec& spec = tensors_[next_];
  const bool convertible = tensor.dtype == spec.dtype ||
                           ((is_floating(tensor.dtype) || is_quantized(tensor.dtype)) && is_floating(spec.dtype));
  require(tensor.shape == spec.shape && tensor.device.kind == DeviceKind::host && convertible,
          "{}: tensor '{}' is {} {}, expected a host tensor {} {}", path_, spec.name, name(tensor.dtype),
          to_string(tensor.shape), name(spec.dtype), to_string(spec.shape));
  write_converted(file_, tensor, spec.dtype);
  ++next_;
}

void SafetensorsWriter::finish() {
  require(next_ == tensors_.size(), "{}: {} of {} tensors are written", path_, next_, tensors_.size());
  file_.sync();
}

void SafetensorsWriter::commit() {
  file_.commit();
}

}  // namespace mamba2
