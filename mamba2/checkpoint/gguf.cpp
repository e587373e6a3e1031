#include "mamba2/checkpoint/gguf.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

constexpr std::array<std::pair<std::uint32_t, DType>, 16> type_numbers{{{0, DType::f32},
                                                                        {1, DType::f16},
                                                                        {2, DType::q4_0},
                                                                        {3, DType::q4_1},
                                                                        {6, DType::q5_0},
                                                                        {7, DType::q5_1},
                                                                        {8, DType::q8_0},
                                                                        {12, DType::q4_k},
                                                                        {13, DType::q5_k},
                                                                        {14, DType::q6_k},
                                                                        {24, DType::i8},
                                                                        {25, DType::i16},
                                                                        {26, DType::i32},
                                                                        {27, DType::i64},
                                                                        {28, DType::f64},
                                                                        {30, DType::bf16}}};

constexpr std::uint32_t max_dimensions = 4;
/// Any element's alignment divides 8; beyond a huge page it would only waste the file.
constexpr std::int64_t least_alignment = 8, default_alignment = 32, largest_alignment = 2 << 20;

std::size_t alignment_of(const GgufMetadata& metadata) {
  const std::int64_t alignment = metadata.integer("general.alignment").value_or(default_alignment);
  require(alignment >= least_alignment && alignment <= largest_alignment && (alignment & (alignment - 1)) == 0,
          "{}: general.alignment is {}, expected a power of two from {} to {}", metadata.source(), alignment,
          least_alignment, largest_alignment);
  return static_cast<std::size_t>(alignment);
}

DType dtype_of(std::uint32_t number, const std::string& where) {
  for (const auto& [known, dtype] : type_numbers)
    if (known == number) return dtype;
  fail("{} has ggml type {}, expected f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k or q6_k", where, number);
}

Shape read_shape(GgufCursor& cursor, const std::string& where) {
  const std::uint32_t dimensions = cursor.u32(where);
  require(dimensions >= 1 && dimensions <= max_dimensions, "{} has {} dimensions, expected 1 to {}", where, dimensions,
          max_dimensions);
  std::array<std::int64_t, max_dimensions> extents{};
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const std::uint64_t extent = cursor.u64(where);
    require(extent <= std::numeric_limits<std::int64_t>::max(), "{} has extent {}, expected at most {}", where, extent,
            std::numeric_limits<std::int64_t>::max());
    extents[dimensions - 1 - i] = static_cast<std::int64_t>(extent);  // GGUF's innermost comes first
  }
  try {
    return Shape(std::span<const std::int64_t>(extents.data(), dimensions));
  } catch (const Error& e) {
    fail("{}: {}", where, e.what());
  }
}

/// With begin counted from the start of the data.
GgufEntry read_entry(GgufCursor& cursor, const std::string& source) {
  GgufEntry entry;
  entry.name = cursor.text("a tensor's name", max_name_bytes);
  const std::string where = fmt::format("{}: tensor '{}'", source, printable(entry.name));
  entry.shape = read_shape(cursor, where);
  entry.dtype = dtype_of(cursor.u32(where), where);
  require(entry.shape[-1] % block_elements(entry.dtype) == 0,
          "{} has rows of {} elements, expected a multiple of {}, what a block of {} holds", where, entry.shape[-1],
          block_elements(entry.dtype), name(entry.dtype));
  const std::size_t bytes = bytes_for(entry.dtype, entry.shape.elements());  // the shape bounds elements by 2^60
  const std::uint64_t begin = cursor.u64(where);
  require(begin <= std::numeric_limits<std::size_t>::max() / 2 - bytes, "{} begins at byte {} of the data", where,
          begin);
  entry.begin = static_cast<std::size_t>(begin);
  entry.end = entry.begin + bytes;
  return entry;
}

void check_ranges(const std::vector<GgufEntry>& entries, std::size_t file_bytes, const std::string& source) {
  std::size_t end = 0;
  for (const GgufEntry& entry : entries) {
    require(entry.end <= file_bytes, "{}: tensor '{}' ends at byte {}, the file at {}; is it cut off?", source,
            printable(entry.name), entry.end, file_bytes);
    require(entry.begin >= end || entry.begin == entry.end, "{}: tensor '{}' begins at byte {}, inside another", source,
            printable(entry.name), entry.begin);
    end = std::max(end, entry.end);
  }
}

bool is_vector_of_heads(std::string_view name) {
  return name.ends_with(".ssm_a") || name.ends_with(".ssm_d");
}

/// The shape under which Hugging Face has it; a shape that is no Mamba-2 model's stays for the loader to refuse.
Shape our_shape(std::string_view name, const Shape& shape) {
  if (shape.rank() != 2) return shape;
  if (is_vector_of_heads(name) && shape[1] == 1) return {shape[0]};
  if (name.ends_with(".ssm_norm.weight")) return {shape.elements()};
  if (name.ends_with(".ssm_conv1d.weight")) return {shape[0], 1, shape[1]};
  return shape;
}

bool holds_A(std::string_view name) {
  return name_from_gguf(name).ends_with(".A_log");
}

HostTensor log_of_negative(const Tensor& A, const std::string& where) {
  HostTensor f32(DType::f32, A.shape);
  convert(A, f32);
  for (float& value : f32.span<float>()) {
    require(value < 0.0F && std::isfinite(value), "{} holds {}, expected A = -exp(A_log) below 0", where, value);
    value = static_cast<float>(std::log(-static_cast<double>(value)));
  }
  return f32;
}

std::vector<TensorInfo> infos_of(const std::vector<GgufEntry>& entries) {
  std::vector<TensorInfo> infos;
  for (const GgufEntry& entry : entries) {
    TensorInfo info;
    info.name = name_from_gguf(entry.name);
    info.shape = our_shape(entry.name, entry.shape);
    info.dtype = holds_A(entry.name) ? DType::f32 : entry.dtype;
    info.bytes = bytes_for(info.dtype, info.shape.elements());
    infos.push_back(std::move(info));
  }
  return infos;
}

}  // namespace

std::uint32_t gguf_type_number(DType dtype) {
  for (const auto& [number, known] : type_numbers)
    if (known == dtype) return number;
  fail("GGUF has no type for dtype {}", name(dtype));
}

std::vector<GgufEntry> parse_gguf_tensors(std::span<const std::byte> file, const GgufMetadata& metadata) {
  const std::string& source = metadata.source();
  const std::size_t alignment = alignment_of(metadata);
  require(metadata.tensor_count() <= max_tensors, "{}: has {} tensors, expected at most {}", source,
          metadata.tensor_count(), max_tensors);
  GgufCursor cursor(file, source);
  cursor.take(metadata.end(), "the metadata");
  std::vector<GgufEntry> entries;
  std::set<std::string> names;
  std::size_t name_bytes = 0;
  for (std::uint64_t i = 0; i < metadata.tensor_count(); ++i) {
    entries.push_back(read_entry(cursor, source));
    const GgufEntry& entry = entries.back();
    name_bytes += entry.name.size();
    require(name_bytes <= max_name_bytes, "{}: tensor names take more than {} bytes", source, max_name_bytes);
    require(names.insert(entry.name).second, "{}: tensor '{}' appears twice", source, printable(entry.name));
    require(entry.begin % alignment == 0, "{}: tensor '{}' begins at byte {} of the data, expected a multiple of {}",
            source, printable(entry.name), entry.begin, alignment);
  }
  const std::size_t data = (cursor.position() + alignment - 1) / alignment * alignment;
  for (GgufEntry& entry : entries) {
    entry.begin += data;
    entry.end += data;
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const GgufEntry& a, const GgufEntry& b) { return a.begin < b.begin; });
  check_ranges(entries, file.size(), source);
  return entries;
}

GgufFile::GgufFile(MappedFile file)
    : GgufFile(std::move(file), parse_gguf_tensors(file.bytes(), GgufMetadata(file.bytes(), file.path()))) {}

GgufFile::GgufFile(MappedFile&& file, std::vector<GgufEntry>&& entries)
    : TensorSource(file.path(), infos_of(entries)), file_(std::move(file)), entries_(std::move(entries)) {}

Tensor GgufFile::read_at(std::size_t index) const {
  const GgufEntry& entry = entries_[index];
  const TensorInfo& info = tensors()[index];
  // mapped read-only; a Tensor's data is not const as ops write theirs
  auto* data = const_cast<std::byte*>(file_.data() + entry.begin);
  if (!holds_A(entry.name)) return Tensor(data, info.dtype, info.shape);
  const std::string where = fmt::format("{}: tensor '{}'", file_.path(), entry.name);
  return copies_.of(index, log_of_negative(Tensor(data, entry.dtype, entry.shape).reshape(info.shape), where));
}

std::span<const std::byte> GgufFile::mapped_at(std::size_t index) const {
  const GgufEntry& entry = entries_[index];
  return holds_A(entry.name) ? std::span<const std::byte>{}
                             : file_.bytes().subspan(entry.begin, entry.end - entry.begin);
}

}  // namespace mamba2
