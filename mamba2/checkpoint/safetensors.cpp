#include "mamba2/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/checkpoint/json_visitor.h"
#include "mamba2/checkpoint/little_endian.h"

namespace mamba2 {
namespace {

/// The header's length, before the header.
constexpr std::size_t length_bytes = 8;

constexpr std::array<std::pair<DType, std::string_view>, 10> dtype_names{{{DType::f64, "F64"},
                                                                          {DType::f32, "F32"},
                                                                          {DType::f16, "F16"},
                                                                          {DType::bf16, "BF16"},
                                                                          {DType::i64, "I64"},
                                                                          {DType::i32, "I32"},
                                                                          {DType::i16, "I16"},
                                                                          {DType::i8, "I8"},
                                                                          {DType::u8, "U8"},
                                                                          {DType::boolean, "BOOL"}}};

/// Turns the header's events into entries.  begin and end count from the start of the data.
class HeaderReader : public JsonVisitor {
 public:
  explicit HeaderReader(std::string_view file) : JsonVisitor(file) {}

  std::vector<SafetensorsEntry> take() { return std::move(entries_); }

  void unsigned_integer(std::uint64_t value) override {
    if (place_ != Place::array) unexpected("a number");
    const std::size_t most = field_ == Field::shape ? Shape::max_rank : 2;
    require(count_ < most, "{}: tensor '{}': field '{}' has more than {} numbers", source(), name(), field_name(),
            most);
    require(value <= std::numeric_limits<std::int64_t>::max(),
            "{}: tensor '{}': field '{}' holds {}, expected at most {}", source(), name(), field_name(), value,
            std::numeric_limits<std::int64_t>::max());
    numbers_[count_++] = static_cast<std::int64_t>(value);
  }

  void string(std::string_view value) override {
    if (place_ == Place::metadata) return;
    if (place_ != Place::tensor || field_ != Field::dtype) unexpected("a string");
    const auto* const found =
        std::find_if(dtype_names.begin(), dtype_names.end(), [&](const auto& known) { return known.second == value; });
    require(found != dtype_names.end(),
            "{}: tensor '{}' has dtype '{}', expected F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL", source(),
            name(), printable(value));
    entries_.back().dtype = found->first;
  }

  void start_object() override {
    switch (place_) {
      case Place::outside: place_ = Place::tensors; return;
      case Place::tensors: place_ = in_metadata_ ? Place::metadata : Place::tensor; return;
      default: unexpected("an object");
    }
  }

  void key(std::string_view key) override {
    if (place_ == Place::tensors) start_tensor(key);
    if (place_ == Place::tensor) start_field(key);
  }

  void end_object() override {
    if (place_ == Place::tensor) {
      require(has_dtype_ && has_shape_ && has_offsets_,
              "{}: tensor '{}' lacks one of the fields dtype, shape and data_offsets", source(), name());
    }
    place_ = place_ == Place::tensors ? Place::outside : Place::tensors;
  }

  void start_array() override {
    if (place_ != Place::tensor || (field_ != Field::shape && field_ != Field::data_offsets)) unexpected("an array");
    place_ = Place::array;
    count_ = 0;
  }

  void end_array() override {
    place_ = Place::tensor;
    SafetensorsEntry& entry = entries_.back();
    if (field_ == Field::shape) {
      try {
        entry.shape = Shape(std::span<const std::int64_t>(numbers_.data(), count_));
      } catch (const Error& e) {
        fail("{}: tensor '{}': {}", source(), name(), e.what());
      }
      return;
    }
    require(count_ == 2, "{}: tensor '{}': field 'data_offsets' has {} numbers, expected 2", source(), name(), count_);
    entry.begin = static_cast<std::size_t>(numbers_[0]);
    entry.end = static_cast<std::size_t>(numbers_[1]);
  }

 protected:
  std::string expected() const override {
    switch (place_) {
      case Place::outside: return "header: expected an object";
      case Place::metadata: return "header: field '__metadata__': expected strings";
      case Place::tensors:
        if (in_metadata_) return "header: field '__metadata__': expected an object";
        return fmt::format("tensor '{}': expected an object", name());
      case Place::array: return fmt::format("tensor '{}': field '{}': expected integers", name(), field_name());
      case Place::tensor: break;
    }
    return fmt::format("tensor '{}': field '{}': expected {}", name(), field_name(),
                       field_ == Field::dtype ? "a string" : "an array of integers");
  }

 private:
  enum class Place { outside, tensors, metadata, tensor, array };
  enum class Field { dtype, shape, data_offsets };

  std::string name() const { return entries_.empty() ? std::string() : printable(entries_.back().name); }

  std::string_view field_name() const {
    switch (field_) {
      case Field::dtype: return "dtype";
      case Field::shape: return "shape";
      case Field::data_offsets: break;
    }
    return "data_offsets";
  }

  void start_tensor(std::string_view key) {
    in_metadata_ = key == "__metadata__";
    if (in_metadata_) {
      require(!std::exchange(has_metadata_, true), "{}: header: duplicate key '__metadata__'", source());
      return;
    }
    name_bytes_ += key.size();
    require(entries_.size() < max_tensors && name_bytes_ <= max_name_bytes,
            "{}: header names more than {} tensors or takes more than {} bytes for their names", source(), max_tensors,
            max_name_bytes);
    entries_.emplace_back().name = key;
    has_dtype_ = has_shape_ = has_offsets_ = false;
  }

  void start_field(std::string_view key) {
    bool* seen = nullptr;
    if (key == "dtype") {
      field_ = Field::dtype;
      seen = &has_dtype_;
    } else if (key == "shape") {
      field_ = Field::shape;
      seen = &has_shape_;
    } else if (key == "data_offsets") {
      field_ = Field::data_offsets;
      seen = &has_offsets_;
    } else {
      fail("{}: tensor '{}': unknown field '{}', expected dtype, shape and data_offsets", source(), name(),
           printable(key));
    }
    require(!std::exchange(*seen, true), "{}: tensor '{}': duplicate key '{}'", source(), name(), field_name());
  }

  Place place_ = Place::outside;
  Field field_ = Field::dtype;
  bool in_metadata_ = false, has_metadata_ = false;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  std::array<std::int64_t, Shape::max_rank> numbers_{};
  std::size_t count_ = 0;
  std::size_t name_bytes_ = 0;
  std::vector<SafetensorsEntry> entries_;
};

/// The header's text.
std::string_view header_of(std::span<const std::byte> file, std::string_view source) {
  require(file.size() >= length_bytes, "{}: is {} bytes, too short for a safetensors file", source, file.size());
  const auto length = load_little_endian<std::uint64_t>(file, 0);
  require(length <= max_safetensors_header_bytes,
          "{}: is no safetensors file: its header would be {} bytes, expected at most {}", source, length,
          max_safetensors_header_bytes);
  require(length <= file.size() - length_bytes,
          "{}: safetensors header is {} bytes, only {} follow; is the file cut off?", source, length,
          file.size() - length_bytes);
  const std::string_view header(reinterpret_cast<const char*>(file.data()) + length_bytes,
                                static_cast<std::size_t>(length));
  require(header.starts_with('{'), "{}: is no safetensors file: its header does not start with '{{'", source);
  return header;
}

/// Sorts by begin and checks that the ranges tile the data exactly.
void check_ranges(std::vector<SafetensorsEntry>& entries, std::size_t data_bytes, std::string_view source) {
  for (const SafetensorsEntry& entry : entries) {
    const auto bytes = static_cast<std::size_t>(entry.shape.elements()) * element_size(entry.dtype);
    require(entry.begin <= entry.end && entry.end - entry.begin == bytes,
            "{}: tensor '{}': data_offsets [{}, {}] do not fit {} of shape {}, which takes {} bytes", source,
            printable(entry.name), entry.begin, entry.end, safetensors_name(entry.dtype), to_string(entry.shape),
            bytes);
    require(entry.end <= data_bytes, "{}: tensor '{}' ends at byte {} of the data, the file holds {}; is it cut off?",
            source, printable(entry.name), entry.end, data_bytes);
  }
  std::stable_sort(entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::size_t end = 0;
  for (const SafetensorsEntry& entry : entries) {
    require(entry.begin == end, "{}: tensor '{}' starts at byte {} of the data, expected {}: tensors {}", source,
            printable(entry.name), entry.begin, end, entry.begin < end ? "overlap" : "leave a hole");
    end = entry.end;
  }
  require(end == data_bytes, "{}: tensors end at byte {} of the data, the file holds {}", source, end, data_bytes);
}

std::vector<TensorInfo> infos_of(std::vector<SafetensorsEntry>& entries) {
  std::vector<TensorInfo> infos;
  infos.reserve(entries.size());
  for (SafetensorsEntry& entry : entries)
    infos.push_back({std::move(entry.name), entry.dtype, entry.shape, {}, entry.end - entry.begin});
  return infos;
}

}  // namespace

std::string_view safetensors_name(DType dtype) {
  for (const auto& [known, text] : dtype_names)
    if (known == dtype) return text;
  fail("safetensors has no name for dtype {}", name(dtype));
}

std::vector<SafetensorsEntry> parse_safetensors(std::span<const std::byte> file, std::string_view source) {
  const std::string_view header = header_of(file, source);
  HeaderReader reader(source);
  visit_json(header, reader);
  std::vector<SafetensorsEntry> entries = reader.take();
  const std::size_t data = length_bytes + header.size();
  check_ranges(entries, file.size() - data, source);
  for (SafetensorsEntry& entry : entries) {
    entry.begin += data;
    entry.end += data;
  }
  return entries;
}

SafetensorsFile::SafetensorsFile(MappedFile file)
    : SafetensorsFile(std::move(file), parse_safetensors(file.bytes(), file.path())) {}

SafetensorsFile::SafetensorsFile(MappedFile&& file, std::vector<SafetensorsEntry>&& entries)
    : TensorSource(file.path(), infos_of(entries)), file_(std::move(file)) {
  begins_.reserve(entries.size());
  for (const SafetensorsEntry& entry : entries) begins_.push_back(entry.begin);
}

Tensor SafetensorsFile::read_at(std::size_t index) const {
  const TensorInfo& info = tensors()[index];
  const std::size_t begin = begins_[index];
  // A Tensor's data is not const; the mapping is read-only all the same.
  const Tensor view(const_cast<std::byte*>(file_.data()) + begin, info.dtype, info.shape);
  return begin % element_size(info.dtype) == 0 ? view : copies_.of(index, view);
}

std::span<const std::byte> SafetensorsFile::mapped_at(std::size_t index) const {
  const TensorInfo& info = tensors()[index];
  if (begins_[index] % element_size(info.dtype) != 0) return {};
  return file_.bytes().subspan(begins_[index], info.bytes);
}

}  // namespace mamba2
