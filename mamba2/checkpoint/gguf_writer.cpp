#include "mamba2/checkpoint/gguf_writer.h"

#include <set>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/checkpoint/gguf.h"

namespace mamba2 {
namespace {

constexpr std::uint64_t alignment = 32;   // general.alignment's default
constexpr std::size_t longest_name = 63;  // ggml keeps names in 64 bytes, the last a zero

std::uint64_t aligned(std::uint64_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}

template <class T>
void append_number(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);  // little-endian as the host
}

void check(const TensorSpec& tensor, const std::string& path) {
  require(!tensor.name.empty() && tensor.name.size() <= longest_name &&
              printable(tensor.name, tensor.name.size()) == tensor.name,
          "{}: a tensor can't be named '{}', expected at most {} bytes", path, printable(tensor.name), longest_name);
  require(tensor.shape.rank() >= 1 && tensor.shape.rank() <= 4, "{}: tensor '{}' is {}, expected 1 to 4 dimensions",
          path, tensor.name, to_string(tensor.shape));
}

/// Name, extents with the innermost first, dtype, and where the values begin behind the head.
std::string describe(const TensorSpec& tensor, std::uint64_t begin) {
  std::string text = gguf_text(tensor.name);
  append_number(text, static_cast<std::uint32_t>(tensor.shape.rank()));
  for (int i = tensor.shape.rank() - 1; i >= 0; --i) append_number(text, static_cast<std::uint64_t>(tensor.shape[i]));
  append_number(text, gguf_type_number(tensor.dtype));
  append_number(text, begin);
  return text;
}

}  // namespace

GgufWriter::GgufWriter(std::string path, const GgufMetadataBuilder& metadata, std::vector<TensorSpec> tensors)
    : file_(path), path_(std::move(path)), tensors_(std::move(tensors)) {
  require(!metadata.has("general.alignment"), "{}: general.alignment can't be chosen", path_);
  std::string head = metadata.head(tensors_.size());
  std::set<std::string_view> names;
  for (const TensorSpec& tensor : tensors_) {
    check(tensor, path_);
    require(names.insert(tensor.name).second, "{}: tensor '{}' is to be written twice", path_, tensor.name);
    head += describe(tensor, data_bytes_);
    data_bytes_ += aligned(tensor.bytes());
  }
  file_.write(head);
  pad();
}

void GgufWriter::pad() {
  const std::string zeros(aligned(file_.written()) - file_.written(), '\0');
  file_.write(zeros);
}

void GgufWriter::write(const Tensor& rows) {
  require(next_ < tensors_.size(), "{}: all its {} tensors are written", path_, tensors_.size());
  const TensorSpec& spec = tensors_[next_];
  const std::uint64_t bytes = rows.bytes(), expected = spec.bytes();
  require(rows.dtype == spec.dtype && rows.contiguous() && rows.device.kind == DeviceKind::host &&
              bytes <= expected - written_of_next_,
          "{}: tensor '{}' is {} {} and has {} bytes of {}, found {} {}", path_, spec.name, name(spec.dtype),
          to_string(spec.shape), written_of_next_, expected, name(rows.dtype), to_string(rows.shape));
  file_.write(std::span(rows.as<const std::byte>(), bytes));
  written_of_next_ += bytes;
  if (written_of_next_ < expected) return;
  pad();
  written_of_next_ = 0;
  ++next_;
}

void GgufWriter::commit() {
  require(next_ == tensors_.size(), "{}: {} of {} tensors are written", path_, next_, tensors_.size());
  file_.commit();
}

}  // namespace mamba2
