#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>

#include "mamba2/base/file.h"
#include "mamba2/checkpoint/tensor_source.h"
#include "tests/app/support.h"

namespace mamba2 {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

Json ids_after(const std::string& model) {
  return run_json({"generate", "It was a dark night, and the", "-n", "8", "--model", model}).at(0)["new_ids"];
}

TEST(Convert, WritesAModelThatSaysTheSame) {
  const TemporaryFolder folder;
  const std::string out = folder / "new/parent/out";
  const ProcessResult result = mamba2_command({"convert", classics_5m(), out, "--dtype", "f32"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(names_in(out), testing::IsSupersetOf({"config.json", "generation_config.json", "model.safetensors",
                                                    "tokenizer.json", "tokenizer_config.json"}));
  const auto written = open_tensors(out);
  for (const TensorInfo& tensor : written->tensors()) EXPECT_EQ(tensor.dtype, DType::f32);
  EXPECT_EQ(ids_after(out), ids_after(classics_5m()));
}

TEST(Convert, TakesEveryDialect) {
  const TemporaryFolder folder;
  for (const auto& entry : fs::directory_iterator(golden(""))) {
    if (!entry.is_directory()) continue;
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    const ProcessResult result = mamba2_command({"convert", entry.path().string(), folder / name});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const std::vector<Json> before = run_json({"info", "--model", entry.path().string()});
    const std::vector<Json> after = run_json({"info", "--model", folder / name});
    ASSERT_EQ(after.size(), 1U);
    EXPECT_EQ(after[0]["state_bytes_per_sequence"], before[0]["state_bytes_per_sequence"]);
    EXPECT_EQ(after[0]["architecture"], before[0]["architecture"]);
  }
}

TEST(Convert, ReplacesTheWeightsInAFolderThatIsThere) {
  const TemporaryFolder folder;
  const std::string out = folder.copy(golden("hf-f16-sharded"), "out");
  EXPECT_EQ(mamba2_command({"convert", classics_5m(), out}).exit_code, 0);
  EXPECT_EQ(ids_after(out), ids_after(classics_5m()));
}

TEST(Convert, LeavesTheFolderAsItWasWhereTheDiskIsFull) {
  const TemporaryFolder folder;
  const std::string out = folder.copy(golden("hf-basic"), "out");
  const std::string before = read_whole(out + "/model.safetensors");
  RunOptions full;
  full.largest_file = 1 << 20;
  expect_error(mamba2_command({"convert", classics_5m(), out}, full), 1, {out});
  EXPECT_EQ(names_in(out), names_in(golden("hf-basic")));
  EXPECT_EQ(read_whole(out + "/model.safetensors"), before);
}

TEST(Convert, LeavesNothingBehindWhereTheDiskIsFull) {
  const TemporaryFolder folder;
  RunOptions full;
  full.largest_file = 1 << 20;
  expect_error(mamba2_command({"convert", classics_5m(), folder / "out"}, full), 1, {folder / "out"});
  EXPECT_TRUE(names_in(folder.path()).empty());
}

/// True once a file below folder holds at least so many bytes.
bool holds_bytes(const std::string& folder, std::uintmax_t bytes) {
  std::error_code gone;
  for (auto entry = fs::recursive_directory_iterator(folder, gone); entry != fs::recursive_directory_iterator();
       entry.increment(gone)) {
    if (entry->is_regular_file(gone) && entry->file_size(gone) >= bytes) return true;
    if (gone) break;
  }
  return false;
}

/// Converts to f32 in a folder of its own, sending a signal when part of it is written.
ProcessResult convert_interrupted(const std::string& in, const std::string& out, const std::string& watched, int signal,
                                  std::uintmax_t bytes) {
  RunOptions options;
  options.signal = signal;
  options.when = [&](const ProcessResult&) { return holds_bytes(watched, bytes); };
  return mamba2_command({"convert", in, out, "--dtype", "f32"}, options);
}

class KilledConversion : public testing::TestWithParam<std::uintmax_t> {};

TEST_P(KilledConversion, LeavesAWholeModelOrNone) {
  const TemporaryFolder folder;
  const std::string out = folder / "out";
  convert_interrupted(classics_5m(), out, folder.path(), SIGKILL, GetParam());
  if (fs::exists(out)) {
    EXPECT_EQ(ids_after(out), ids_after(classics_5m()));
  }
  EXPECT_EQ(mamba2_command({"convert", classics_5m(), out}).exit_code, 0) << "the next one finds its way";
}

INSTANTIATE_TEST_SUITE_P(AtSeveralPoints, KilledConversion, testing::Values(0, 1, 1 << 20, 8 << 20, 16 << 20));

TEST(Convert, LeavesNothingBehindAfterCtrlC) {
  const TemporaryFolder folder;
  const std::string out = folder / "out";
  const ProcessResult result = convert_interrupted(classics_5m(), out, folder.path(), SIGINT, 1);
  if (result.exit_code == 0) GTEST_SKIP() << "it was faster";
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_TRUE(names_in(folder.path()).empty());
}

TEST(Convert, DoesNotConvertAModelOntoItself) {
  const TemporaryFolder folder;
  const std::string model = folder.copy(golden("hf-basic"), "model");
  const std::string before = read_whole(model + "/model.safetensors");
  expect_error(mamba2_command({"convert", model, model + "/.", "--dtype", "bf16"}), 1, {model});
  EXPECT_EQ(read_whole(model + "/model.safetensors"), before);
}

TEST(Convert, NamesATargetThatIsNoFolder) {
  const TemporaryFolder folder;
  const std::string file = folder.write("file", "precious");
  expect_error(mamba2_command({"convert", golden("hf-basic"), file}), 1, {file});
  expect_error(mamba2_command({"convert", golden("hf-basic"), file + "/below"}), 1, {file});
  EXPECT_EQ(read_whole(file), "precious");
}

TEST(Convert, NamesADtypeItCantWrite) {
  const TemporaryFolder folder;
  expect_error(mamba2_command({"convert", golden("hf-basic"), folder / "out", "--dtype", "f8"}), 2, {"f8"});
}

TEST(Convert, NamesATargetThatCantBeWritten) {
  // Root may write into any folder, but nobody makes one in /proc.
  expect_error(mamba2_command({"convert", golden("hf-basic"), "/proc/out"}), 1, {"/proc/out"});
}

}  // namespace
}  // namespace mamba2
