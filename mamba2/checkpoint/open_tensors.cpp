#include <fmt/ranges.h>

#include <array>
#include <cstdint>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/checkpoint/gguf.h"
#include "mamba2/checkpoint/little_endian.h"
#include "mamba2/checkpoint/pytorch.h"
#include "mamba2/checkpoint/safetensors.h"
#include "mamba2/checkpoint/sharded.h"
#include "mamba2/checkpoint/tensor_source.h"

namespace mamba2 {
namespace {

using namespace std::string_view_literals;

/// What a folder may hold, the preferred first.
constexpr std::array file_names{"model.safetensors.index.json"sv,        "model.safetensors"sv,
                                "consolidated.safetensors.index.json"sv, "consolidated.safetensors"sv,
                                "pytorch_model.bin.index.json"sv,        "pytorch_model.bin"sv};

enum class Content { zip, pickle, tar_of_pickles, gguf, index, lfs_pointer, safetensors };

Content content_of(std::string_view text, std::span<const std::byte> bytes) {
  if (text.starts_with("PK\x03\x04") || text.starts_with("PK\x05\x06")) return Content::zip;
  if (text.starts_with("GGUF")) return Content::gguf;
  if (text.starts_with("version https://git-lfs")) return Content::lfs_pointer;
  if (text.size() > 8 && text[8] == '{' && load_little_endian<std::uint64_t>(bytes, 0) <= max_safetensors_header_bytes)
    return Content::safetensors;
  if (text.size() > 1 && text[0] == '\x80' && text[1] >= 1 && text[1] <= 5) return Content::pickle;
  if (text.size() > 262 && text.substr(257, 5) == "ustar") return Content::tar_of_pickles;
  const std::size_t first = text.substr(0, 64).find_first_not_of(" \t\r\n");
  if (first != std::string_view::npos && text[first] == '{') return Content::index;
  return Content::safetensors;
}

/// nullptr for an index file.
std::unique_ptr<TensorSource> open_container(MappedFile file) {
  switch (content_of(file.text(), file.bytes())) {
    case Content::safetensors: return std::make_unique<SafetensorsFile>(std::move(file));
    case Content::zip: return std::make_unique<PyTorchFile>(std::move(file));
    case Content::gguf: return std::make_unique<GgufFile>(std::move(file));
    case Content::index: return nullptr;
    case Content::pickle:
    case Content::tar_of_pickles:
      fail(
          "{}: is in the format of PyTorch before 1.6, expected a zip archive; convert it with "
          "python3 -c \"import torch; torch.save(torch.load('{}', map_location='cpu', weights_only=True), 'new.bin')\"",
          file.path(), file.path());
    case Content::lfs_pointer:
      fail("{}: is a Git LFS pointer, expected the weights it stands for; fetch them with git lfs pull", file.path());
  }
  fail("{}: is of no known format", file.path());
}

}  // namespace

std::unique_ptr<TensorSource> open_tensor_file(const std::string& path) {
  std::unique_ptr<TensorSource> source = open_container(MappedFile(path));
  require(source != nullptr, "{}: is JSON, expected tensors", path);
  return source;
}

std::unique_ptr<TensorSource> open_tensors(const std::string& path) {
  if (!directory_exists(path)) {
    std::unique_ptr<TensorSource> source = open_container(MappedFile(path));
    return source != nullptr ? std::move(source) : open_sharded(path);
  }
  for (const std::string_view name : file_names) {
    const std::string file = join_path(path, name);
    if (file_exists(file)) return open_tensors(file);
  }
  fail("{}: holds no weights, expected one of {}", path, fmt::join(file_names, ", "));
}

}  // namespace mamba2
