#include "mamba2/checkpoint/pytorch.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/base/log.h"
#include "mamba2/checkpoint/pickle.h"
#include "mamba2/checkpoint/zip.h"

namespace mamba2 {
namespace {

using Kind = PickleValue::Kind;

/// A hundred times the pickle of the largest models; bounds the time spent on a hostile one.
constexpr std::size_t max_pickle_bytes = 64U << 20;
constexpr std::size_t max_storages = 1U << 17;
/// torch.save numbers its storages.
constexpr std::size_t max_key_bytes = 64;

enum class Role : std::uint8_t {
  ordered_dict,
  rebuild_tensor_v2,
  rebuild_tensor_v3,
  rebuild_parameter,
  storage,
  dtype
};

struct Global {
  std::string_view module, name;
  Role role;
  std::optional<DType> type = std::nullopt;  // of a storage's elements, of a dtype
};

constexpr std::array globals{
    Global{"collections", "OrderedDict", Role::ordered_dict},
    Global{"torch._utils", "_rebuild_tensor_v2", Role::rebuild_tensor_v2},
    Global{"torch._utils", "_rebuild_tensor_v3", Role::rebuild_tensor_v3},
    Global{"torch._utils", "_rebuild_parameter", Role::rebuild_parameter},
    Global{"torch.storage", "UntypedStorage", Role::storage},
    Global{"torch", "UntypedStorage", Role::storage},
    Global{"torch", "DoubleStorage", Role::storage, DType::f64},
    Global{"torch", "FloatStorage", Role::storage, DType::f32},
    Global{"torch", "HalfStorage", Role::storage, DType::f16},
    Global{"torch", "BFloat16Storage", Role::storage, DType::bf16},
    Global{"torch", "LongStorage", Role::storage, DType::i64},
    Global{"torch", "IntStorage", Role::storage, DType::i32},
    Global{"torch", "ShortStorage", Role::storage, DType::i16},
    Global{"torch", "CharStorage", Role::storage, DType::i8},
    Global{"torch", "ByteStorage", Role::storage, DType::u8},
    Global{"torch", "BoolStorage", Role::storage, DType::boolean},
    Global{"torch", "float64", Role::dtype, DType::f64},
    Global{"torch", "float32", Role::dtype, DType::f32},
    Global{"torch", "float16", Role::dtype, DType::f16},
    Global{"torch", "bfloat16", Role::dtype, DType::bf16},
    Global{"torch", "int64", Role::dtype, DType::i64},
    Global{"torch", "int32", Role::dtype, DType::i32},
    Global{"torch", "int16", Role::dtype, DType::i16},
    Global{"torch", "int8", Role::dtype, DType::i8},
    Global{"torch", "uint8", Role::dtype, DType::u8},
    Global{"torch", "bool", Role::dtype, DType::boolean},
};

/// Element and byte counts come from outside; these say so instead of wrapping round.
std::int64_t times(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  require(!__builtin_mul_overflow(a, b, &product), "{} times {} is more than 64 bits can count", a, b);
  return product;
}

std::int64_t plus(std::int64_t a, std::int64_t b) {
  std::int64_t sum = 0;
  require(!__builtin_add_overflow(a, b, &sum), "{} plus {} is more than 64 bits can count", a, b);
  return sum;
}

/// Gives storages and tensors to the pickle.  An object's id is a storage's number, or a tensor's + max_storages.
class TorchHost : public PickleHost {
 public:
  explicit TorchHost(const StorageLookup& lookup) : lookup_(lookup) {}

  std::uint32_t global(std::string_view module, std::string_view name) override {
    for (std::size_t i = 0; i < globals.size(); ++i)
      if (globals[i].module == module && globals[i].name == name) return static_cast<std::uint32_t>(i);
    fail("refers to {}.{}, which is not allowed: only tensors and their containers are read", printable(module),
         printable(name));
  }

  PickleValue call(Pickle& pickle, std::uint32_t function, std::span<const PickleValue> arguments) override {
    switch (globals[function].role) {
      case Role::ordered_dict:
        require(arguments.empty(), "OrderedDict is called with {} arguments, expected none", arguments.size());
        return pickle.new_dict();
      case Role::rebuild_tensor_v2:
        require(arguments.size() == 6 || arguments.size() == 7, "_rebuild_tensor_v2 has {} arguments, expected 6 or 7",
                arguments.size());
        return rebuild(pickle, arguments, std::nullopt);
      case Role::rebuild_tensor_v3: {
        require(arguments.size() == 7 || arguments.size() == 8, "_rebuild_tensor_v3 has {} arguments, expected 7 or 8",
                arguments.size());
        const PickleValue& type = arguments[6];
        require(type.kind == Kind::global && globals[type.id].role == Role::dtype,
                "_rebuild_tensor_v3 has {} for a dtype", describe(type));
        return rebuild(pickle, arguments, globals[type.id].type);
      }
      case Role::rebuild_parameter:
        require(arguments.size() == 3 && is_tensor(arguments[0]),
                "_rebuild_parameter has {} arguments, expected a tensor "
                "and two more",
                arguments.size());
        return arguments[0];
      default: fail("{}.{} is called", globals[function].module, globals[function].name);
    }
  }

  /// ('storage', class, key, device, number of elements), of bytes where the storage is untyped.
  PickleValue persistent(const Pickle& pickle, const PickleValue& id) override {
    require(id.kind == Kind::tuple, "a persistent id is {}, expected a tuple", describe(id));
    const auto parts = pickle.items(id);
    require(parts.size() >= 5 && parts[0].kind == Kind::text && parts[0].text == "storage" &&
                parts[1].kind == Kind::global && globals[parts[1].id].role == Role::storage &&
                parts[2].kind == Kind::text && parts[4].kind == Kind::integer,
            "a persistent id is not ('storage', class, key, device, size)");
    const std::optional<DType> type = globals[parts[1].id].type;
    const std::int64_t elements = parts[4].integer;
    require(parts[2].text.size() <= max_key_bytes, "storage key '{}' is longer than {} bytes", printable(parts[2].text),
            max_key_bytes);
    const ByteRange range = lookup_(parts[2].text);
    const std::size_t unit = type ? element_size(*type) : 1;
    require(elements >= 0 && static_cast<std::size_t>(elements) <= range.size / unit,
            "storage '{}' is {} bytes, too short for its {} elements of {} bytes", printable(parts[2].text), range.size,
            elements, unit);
    require(storages_.size() < max_storages, "holds more than {} storages", max_storages);
    storages_.push_back({range.begin, static_cast<std::size_t>(elements) * unit, type});
    return {.kind = Kind::object, .id = static_cast<std::uint32_t>(storages_.size() - 1)};
  }

  static bool is_tensor(const PickleValue& value) { return value.kind == Kind::object && value.id >= max_storages; }

  const TorchTensor& tensor(const PickleValue& value) const { return tensors_[value.id - max_storages]; }

 private:
  struct Storage {
    std::size_t begin, bytes;
    std::optional<DType> type;
  };

  /// (storage, offset, shape, strides, requires_grad, hooks, ...), offset and strides in elements.
  PickleValue rebuild(const Pickle& pickle, std::span<const PickleValue> arguments, std::optional<DType> type) {
    require(arguments[0].kind == Kind::object && !is_tensor(arguments[0]), "a tensor's storage is {}",
            describe(arguments[0]));
    const Storage& storage = storages_[arguments[0].id];
    if (!type) type = storage.type;
    require(type && (!storage.type || *storage.type == *type), "a tensor's dtype is missing or not its storage's");
    require(arguments[1].kind == Kind::integer && arguments[1].integer >= 0, "a tensor's offset is {}",
            describe(arguments[1]));
    std::array<std::int64_t, Shape::max_rank> extents{};
    TorchTensor tensor;
    tensor.dtype = *type;
    const std::size_t rank = read_numbers(pickle, arguments[2], "shape", extents);
    require(read_numbers(pickle, arguments[3], "strides", tensor.strides) == rank,
            "a tensor has more extents than strides or fewer");
    tensor.shape = Shape(std::span<const std::int64_t>(extents.data(), rank));
    place(tensor, arguments[1].integer, storage);
    require(tensors_.size() < max_tensors, "holds more than {} tensors", max_tensors);
    tensors_.push_back(std::move(tensor));
    return {.kind = Kind::object, .id = static_cast<std::uint32_t>(max_storages + tensors_.size() - 1)};
  }

  static std::size_t read_numbers(const Pickle& pickle, const PickleValue& value, std::string_view what,
                                  std::array<std::int64_t, Shape::max_rank>& numbers) {
    require(value.kind == Kind::tuple, "a tensor's {} is {}, expected a tuple", what, describe(value));
    const auto items = pickle.items(value);
    require(items.size() <= numbers.size(), "a tensor has {} dimensions, expected at most {}", items.size(),
            numbers.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      require(items[i].kind == Kind::integer && items[i].integer >= 0, "a tensor's {} holds {}", what,
              describe(items[i]));
      numbers[i] = items[i].integer;
    }
    return items.size();
  }

  static void place(TorchTensor& tensor, std::int64_t offset, const Storage& storage) {
    const auto unit = static_cast<std::int64_t>(element_size(tensor.dtype));
    const auto held = static_cast<std::int64_t>(storage.bytes) / unit;
    if (tensor.shape.elements() == 0) {
      offset = 0;
    } else {
      std::int64_t last = offset;
      for (int i = 0; i < tensor.shape.rank(); ++i)
        last = plus(last, times(tensor.shape[i] - 1, tensor.strides[static_cast<std::size_t>(i)]));
      require(last < held, "a tensor of shape {} at offset {} needs {} elements, its storage holds {}",
              to_string(tensor.shape), offset, plus(last, 1), held);
    }
    tensor.begin = storage.begin + static_cast<std::size_t>(offset * unit);
  }

  const StorageLookup& lookup_;
  std::deque<Storage> storages_;
  std::deque<TorchTensor> tensors_;
};

bool holds_tensors(const Pickle& pickle, const PickleValue& dict) {
  const auto items = pickle.items(dict);
  return std::any_of(items.begin(), items.end(), TorchHost::is_tensor);
}

/// The dict whose values are tensors: the root, else the first of the members that training programs use.
PickleValue find_state_dict(const Pickle& pickle, std::string_view source) {
  const PickleValue& root = pickle.root();
  require(root.kind == Kind::dict, "{}: holds {}, expected a dict of tensors", source, describe(root));
  if (holds_tensors(pickle, root)) return root;
  const auto items = pickle.items(root);
  for (const std::string_view name : {"state_dict", "model_state_dict", "model", "module"}) {
    for (std::size_t i = 0; i < items.size(); i += 2) {
      if (items[i].kind != Kind::text || items[i].text != name || items[i + 1].kind != Kind::dict) continue;
      if (holds_tensors(pickle, items[i + 1])) return items[i + 1];
    }
  }
  fail("{}: holds no tensors, neither at the top nor under 'state_dict', 'model_state_dict', 'model' or 'module'",
       source);
}

/// The one 'NAME/data.pkl' of the archive.
const ZipEntry& find_pickle(const ZipArchive& archive, std::string_view source) {
  const ZipEntry* found = nullptr;
  for (const ZipEntry& entry : archive.entries()) {
    const std::size_t slash = entry.name.find('/');
    if (slash == std::string_view::npos || entry.name.substr(slash) != "/data.pkl") continue;
    require(found == nullptr, "{}: zip archive holds more than one 'data.pkl'", source);
    found = &entry;
  }
  require(found != nullptr, "{}: zip archive holds no 'NAME/data.pkl', so torch.save did not write it", source);
  require(found->size <= max_pickle_bytes, "{}: zip entry '{}' is {} bytes, expected at most {}", source,
          printable(found->name), found->size, max_pickle_bytes);
  return *found;
}

void require_little_endian(const ZipArchive& archive, std::span<const std::byte> file, const std::string& folder,
                           std::string_view source) {
  const ZipEntry* entry = archive.find(folder + "byteorder");
  if (entry == nullptr) return;  // before torch 2.0, which could only write little-endian
  const std::string_view order(reinterpret_cast<const char*>(file.data()) + entry->begin, entry->size);
  require(order == "little", "{}: byte order is '{}', expected 'little'", source, printable(order, 20));
}

bool is_contiguous_view(const TorchTensor& tensor) {
  Tensor view(nullptr, tensor.dtype, tensor.shape);
  view.strides = tensor.strides;
  return tensor.shape.elements() == 0 || view.contiguous();
}

/// Tensors that can't be viewed are copied when read; a file must not ask for more of that than it is long.
void require_few_copies(const std::vector<TorchTensor>& tensors, std::size_t file_bytes, std::string_view source) {
  std::size_t left = file_bytes;
  for (const TorchTensor& tensor : tensors) {
    if (is_contiguous_view(tensor) && tensor.begin % element_size(tensor.dtype) == 0) continue;
    const auto elements = static_cast<std::size_t>(tensor.shape.elements());
    require(
        elements <= left / element_size(tensor.dtype),
        "{}: tensor '{}' of shape {} repeats elements of its storage; expected no more copies than the file's {} bytes",
        source, printable(tensor.name), to_string(tensor.shape), file_bytes);
    left -= elements * element_size(tensor.dtype);
  }
}

std::vector<TensorInfo> infos_of(std::vector<TorchTensor>& tensors) {
  std::vector<TensorInfo> infos;
  infos.reserve(tensors.size());
  for (TorchTensor& tensor : tensors) {
    const std::size_t bytes = static_cast<std::size_t>(tensor.shape.elements()) * element_size(tensor.dtype);
    infos.push_back({std::move(tensor.name), tensor.dtype, tensor.shape, {}, bytes});
  }
  return infos;
}

}  // namespace

std::vector<TorchTensor> parse_state_dict(std::span<const std::byte> pickle, std::string_view source,
                                          const StorageLookup& storage) {
  TorchHost host(storage);
  const Pickle parsed(pickle, source, host);
  const PickleValue dict = find_state_dict(parsed, source);
  const auto items = parsed.items(dict);
  std::vector<TorchTensor> tensors;
  std::size_t name_bytes = 0;
  for (std::size_t i = 0; i < items.size(); i += 2) {
    if (!TorchHost::is_tensor(items[i + 1])) {
      log_debug("{}: entry {} is {}, no tensor", source, describe(items[i]), describe(items[i + 1]));
      continue;
    }
    require(items[i].kind == Kind::text, "{}: a tensor's name is {}, expected a string", source, describe(items[i]));
    name_bytes += items[i].text.size();
    require(tensors.size() < max_tensors && name_bytes <= max_name_bytes,
            "{}: names more than {} tensors or takes more than {} bytes for their names", source, max_tensors,
            max_name_bytes);
    tensors.push_back(host.tensor(items[i + 1]));
    tensors.back().name = items[i].text;
  }
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const TorchTensor& a, const TorchTensor& b) { return a.begin < b.begin; });
  return tensors;
}

std::vector<TorchTensor> parse_pytorch(std::span<const std::byte> file, std::string_view source) {
  const ZipArchive archive(file, source);
  const ZipEntry& pickle = find_pickle(archive, source);
  const std::string folder(pickle.name.substr(0, pickle.name.find('/') + 1));
  require_little_endian(archive, file, folder, source);
  const StorageLookup storage = [&](std::string_view key) {
    const ZipEntry* entry = archive.find(fmt::format("{}data/{}", folder, key));
    require(entry != nullptr, "there is no storage '{}'", printable(key));
    return ByteRange{entry->begin, entry->size};
  };
  std::vector<TorchTensor> tensors = parse_state_dict(file.subspan(pickle.begin, pickle.size), source, storage);
  require_few_copies(tensors, file.size(), source);
  return tensors;
}

PyTorchFile::PyTorchFile(MappedFile file) : PyTorchFile(std::move(file), parse_pytorch(file.bytes(), file.path())) {}

PyTorchFile::PyTorchFile(MappedFile&& file, std::vector<TorchTensor>&& tensors)
    : TensorSource(file.path(), infos_of(tensors)), file_(std::move(file)) {
  places_.reserve(tensors.size());
  for (const TorchTensor& tensor : tensors) places_.push_back({tensor.strides, tensor.begin});
}

Tensor PyTorchFile::stored_at(std::size_t index) const {
  const TensorInfo& info = tensors()[index];
  // A Tensor's data is not const; the mapping is read-only all the same.
  Tensor stored(const_cast<std::byte*>(file_.data()) + places_[index].begin, info.dtype, info.shape);
  stored.strides = places_[index].strides;
  return stored;
}

bool PyTorchFile::is_view(std::size_t index) const {
  const TensorInfo& info = tensors()[index];
  const bool aligned = places_[index].begin % element_size(info.dtype) == 0;
  return info.bytes == 0 || (aligned && stored_at(index).contiguous());
}

Tensor PyTorchFile::read_at(std::size_t index) const {
  const Tensor stored = stored_at(index);
  if (!is_view(index)) return copies_.of(index, stored);
  return Tensor(stored.data, stored.dtype, stored.shape);
}

std::span<const std::byte> PyTorchFile::mapped_at(std::size_t index) const {
  if (tensors()[index].bytes == 0 || !is_view(index)) return {};
  return file_.bytes().subspan(places_[index].begin, tensors()[index].bytes);
}

}  // namespace mamba2
