#include <fmt/ranges.h>

#include "mamba2/checkpoint/tensor_source.h"
#include "test_files.h"

namespace mamba2 {
namespace {

using ::testing::SizeIs;

std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f32: return "F32";
    case DType::f16: return "F16";
    case DType::bf16: return "BF16";
    case DType::i64: return "I64";
    default: return name(dtype);
  }
}

void add(std::uint64_t& digest, std::string_view bytes) {
  for (const char byte : bytes) digest = (digest ^ static_cast<unsigned char>(byte)) * 0x100000001B3;
}

/// As tests/checkpoint/digest_goldens.py computes it.
std::uint64_t digest_of(const TensorSource& source) {
  std::vector<TensorInfo> tensors = source.tensors();
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  std::uint64_t digest = 0xCBF29CE484222325;
  for (const TensorInfo& info : tensors) {
    const Tensor tensor = source.read(info.name);
    EXPECT_TRUE(tensor.contiguous() && tensor.shape == info.shape && tensor.dtype == info.dtype) << info.name;
    EXPECT_EQ(tensor.bytes(), info.bytes) << info.name;
    add(digest, fmt::format("{} {} [{}] ", info.name, dtype_name(info.dtype), fmt::join(info.shape.extents(), ", ")));
    add(digest, {tensor.as<const char>(), tensor.bytes()});
  }
  return digest;
}

TEST(Golden, EveryFileHoldsWhatPythonReadsFromIt) {
  std::ifstream digests(MAMBA2_SOURCE_DIR "/tests/checkpoint/golden_digests.txt");
  std::string file, digest;
  std::size_t tensors = 0, files = 0;
  while (digests >> file >> tensors >> digest) {
    const auto source = open_tensors(test::golden(file));
    EXPECT_THAT(source->tensors(), SizeIs(tensors)) << file;
    EXPECT_EQ(fmt::format("{:016x}", digest_of(*source)), digest) << file;
    EXPECT_EQ(source->format(), file.ends_with(".bin") ? "pytorch" : "safetensors") << file;
    ++files;
  }
  EXPECT_EQ(files, 45U);
}

TEST(Golden, EveryFolderOpensAndItsTensorsAreViewsOfTheMappedFile) {
  for (const auto& entry : std::filesystem::directory_iterator(test::golden(""))) {
    if (!entry.is_directory()) continue;
    const auto source = open_tensors(entry.path().string());
    for (const TensorInfo& info : source->tensors())
      EXPECT_EQ(source->read(info.name).data, source->read(info.name).data) << info.name;
    EXPECT_FALSE(source->tensors().empty());
  }
}

TEST(Golden, WhatIsMappedIsWhatIsRead) {
  std::size_t views = 0, copies = 0;
  for (const auto& entry : std::filesystem::directory_iterator(test::golden(""))) {
    if (!entry.is_directory()) continue;
    const auto source = open_tensors(entry.path().string());
    for (const TensorInfo& info : source->tensors()) {
      const std::span<const std::byte> mapped = source->mapped(info.name);
      (mapped.empty() ? copies : views) += 1;
      if (mapped.empty()) continue;
      EXPECT_EQ(mapped.data(), source->read(info.name).data) << info.name;
      EXPECT_EQ(mapped.size(), info.bytes) << info.name;
    }
  }
  EXPECT_GT(views, copies);
}

TEST(Golden, ShardsTogetherHoldEveryTensorOnce) {
  for (const auto& [folder, format, shards] :
       {std::tuple{"hf-f16-sharded", "safetensors", 3}, std::tuple{"state-spaces-hybrid", "pytorch", 2}}) {
    const auto whole = open_tensors(test::golden(folder));
    EXPECT_EQ(whole->format(), format);
    std::size_t tensors = 0;
    for (int i = 1; i <= shards; ++i) {
      const std::string pattern = std::string(format) == "pytorch" ? "{}/pytorch_model-{:05}-of-{:05}.bin"
                                                                   : "{}/model-{:05}-of-{:05}.safetensors";
      const auto shard = open_tensors(test::golden(fmt::format(fmt::runtime(pattern), folder, i, shards)));
      tensors += shard->tensors().size();
      for (const TensorInfo& info : shard->tensors()) {
        const Tensor a = shard->read(info.name), b = whole->read(info.name);
        EXPECT_EQ(a.shape, b.shape);
        EXPECT_EQ(std::memcmp(a.data, b.data, a.bytes()), 0) << info.name;
        EXPECT_EQ(whole->find(info.name)->file, info.file);
      }
    }
    EXPECT_THAT(whole->tensors(), SizeIs(tensors));
  }
}

}  // namespace
}  // namespace mamba2
