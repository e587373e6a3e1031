#include "mamba2/checkpoint/save_safetensors.h"

#include <sys/resource.h>

#include <csignal>

#include "mamba2/base/file.h"
#include "mamba2/checkpoint/tensor_source.h"
#include "test_files.h"

namespace mamba2 {
namespace {

using ::testing::ElementsAre;

class SaveSafetensorsTest : public test::FolderTest {
 protected:
  /// `count` tensors of 100 bytes, filled with `value`.
  void save(int count, char value, std::uint64_t max_shard_bytes) const {
    std::vector<TensorSpec> tensors;
    for (int i = 0; i < count; ++i) tensors.push_back({"w" + std::to_string(i), DType::u8, {100}});
    const HostTensor bytes(DType::u8, {100});
    std::memset(bytes.view().data, value, 100);
    save_safetensors(path(), tensors, [&](const TensorSpec&) -> Tensor { return bytes; },
                     {.max_shard_bytes = max_shard_bytes});
  }

  /// What all `count` tensors are filled with.
  char value(std::size_t count) const {
    const auto source = open_tensors(path());
    EXPECT_EQ(source->tensors().size(), count);
    const char first = *source->read("w0").as<const char>();
    for (const TensorInfo& info : source->tensors()) EXPECT_EQ(*source->read(info.name).as<const char>(), first);
    return first;
  }
};

TEST_F(SaveSafetensorsTest, OneFileWhereItFits) {
  save(5, 'a', 500);
  EXPECT_THAT(files(), ElementsAre("model.safetensors"));
  EXPECT_EQ(value(5), 'a');
}

TEST_F(SaveSafetensorsTest, ShardsWithAnIndexWhereItDoesNot) {
  save(5, 'a', 299);
  EXPECT_THAT(files(), ElementsAre("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                   "model-00003-of-00003.safetensors", "model.safetensors.index.json"));
  EXPECT_EQ(value(5), 'a');
  EXPECT_THAT(read_file(path("model.safetensors.index.json")), ::testing::StartsWith(R"({
  "metadata": {
    "total_size": 500
  },
  "weight_map": {
    "w0": "model-00001-of-00003.safetensors",)"));
}

TEST_F(SaveSafetensorsTest, ATensorLargerThanAShardGetsOneOfItsOwn) {
  save(2, 'a', 10);
  EXPECT_EQ(files().size(), 3U);
  EXPECT_EQ(value(2), 'a');
}

TEST_F(SaveSafetensorsTest, ANewSaveReplacesAnOldOneOfAnyForm) {
  for (const std::uint64_t limit : {1000, 250, 100, 250, 1000, 200, 200}) {
    static char value_of_this_save = 'a';
    const char expected = ++value_of_this_save;
    save(5, expected, limit);
    EXPECT_EQ(value(5), expected);
    const std::uint64_t shards = limit >= 500 ? 1 : (5 + limit / 100 - 1) / (limit / 100);
    EXPECT_EQ(files().size(), shards == 1 ? 1 : shards + 1);
  }
}

TEST_F(SaveSafetensorsTest, OtherFilesStay) {
  write("model-of-mine.safetensors", "x");
  write("config.json", "{}");
  write("pytorch_model.bin", "x");
  save(1, 'a', 1000);
  EXPECT_THAT(files(),
              ElementsAre("config.json", "model-of-mine.safetensors", "model.safetensors", "pytorch_model.bin"));
}

TEST_F(SaveSafetensorsTest, AFullDiskLeavesTheOldSave) {
  // {most bytes of a file, max_shard_bytes}: fails at the only file, at the first shard, at the index
  for (const auto& [most, max_shard_bytes] : {std::pair{500U, 1000U}, {300U, 250U}, {250U, 100U}}) {
    save(5, 'a', most);
    const auto before = files();
    const auto previous = std::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{};
    getrlimit(RLIMIT_FSIZE, &limit);
    const rlimit small{most, limit.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    EXPECT_THROW(save(5, 'b', max_shard_bytes), Error);
    setrlimit(RLIMIT_FSIZE, &limit);
    std::signal(SIGXFSZ, previous);
    EXPECT_EQ(files(), before);
    EXPECT_EQ(value(5), 'a');
  }
}

TEST_F(SaveSafetensorsTest, AnErrorWhileReadingLeavesTheOldSave) {
  save(2, 'a', 100);
  const auto before = files();
  EXPECT_THROW(
      save_safetensors(path(), {{"w0", DType::u8, {1}}}, [](const TensorSpec&) -> Tensor { fail("no such tensor"); }),
      Error);
  EXPECT_EQ(files(), before);
  EXPECT_EQ(value(2), 'a');
}

TEST_F(SaveSafetensorsTest, EveryGoldenCheckpointComesBackEqual) {
  for (const char* name : {"hf-basic", "hf-bf16", "hf-f16-sharded", "state-spaces", "codestral-consolidated"}) {
    const auto source = open_tensors(test::golden(name));
    std::vector<TensorSpec> tensors;
    for (const TensorInfo& info : source->tensors()) tensors.push_back({info.name, info.dtype, info.shape});
    save_safetensors(path(), tensors, [&](const TensorSpec& spec) { return source->read(spec.name); },
                     {.max_shard_bytes = 30'000});
    const auto saved = open_tensors(path());
    EXPECT_EQ(saved->tensors().size(), tensors.size());
    for (const TensorInfo& info : source->tensors()) {
      const Tensor a = source->read(info.name), b = saved->read(info.name);
      EXPECT_TRUE(a.shape == b.shape && a.dtype == b.dtype) << info.name;
      EXPECT_EQ(std::memcmp(a.data, b.data, a.bytes()), 0) << info.name;
    }
  }
}

}  // namespace
}  // namespace mamba2
