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

constexpr const char* prompt = "It was a dark night, and the";

Json ids_after(const std::string& model, const std::string& dtype = "auto") {
  return run_json({"generate", prompt, "-n", "8", "--model", model, "--dtype", dtype}).at(0)["new_ids"];
}

ProcessResult to_gguf(const std::string& in, const std::string& out, const std::string& dtype = "auto",
                      const RunOptions& options = {}) {
  return mamba2_command({"convert", in, out, "--format", "gguf", "--dtype", dtype}, options);
}

std::size_t files_in(const std::string& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(ConvertToGguf, WritesAModelWithItsTokenizerThatSaysTheSame) {
  const TemporaryFolder folder;
  const std::string out = folder / "new/m.gguf";
  const ProcessResult result = to_gguf(classics_5m(), out, "f32");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(ids_after(out), ids_after(classics_5m(), "f32"));
  EXPECT_EQ(files_in(folder / "new"), 1U);
}

TEST(ConvertToGguf, QuantisesToWhatLoadingQuantisesTo) {
  const TemporaryFolder folder;
  for (const char* dtype : {"q8_0", "q4_0", "q4_k", "q6_k"}) {
    const std::string out = folder / std::string(dtype) + ".gguf";
    ASSERT_EQ(to_gguf(classics_5m(), out, dtype).exit_code, 0);
    EXPECT_EQ(ids_after(out), ids_after(classics_5m(), dtype)) << dtype;
  }
}

TEST(ConvertToGguf, PrintsTheErrorOfEachTensorThatChanged) {
  const TemporaryFolder folder;
  const ProcessResult result = to_gguf(classics_5m(), folder / "m.gguf", "q4_k");
  EXPECT_THAT(result.out, testing::ContainsRegex("token_embd.weight +q6_k"));
  EXPECT_THAT(result.out, testing::ContainsRegex("blk.7.ssm_out.weight +q4_k"));
  EXPECT_THAT(result.out, testing::Not(testing::HasSubstr("attn_norm")));
}

TEST(ConvertToGguf, PrintsTheErrorsAsJson) {
  const TemporaryFolder folder;
  const std::vector<Json> printed =
      run_json({"convert", classics_5m(), folder / "m.gguf", "--format", "gguf", "--dtype", "q8_0"});
  ASSERT_EQ(printed.size(), 1U);
  EXPECT_EQ(printed[0]["out"], folder / "m.gguf");
  for (const Json& tensor : printed[0]["tensors"])
    EXPECT_EQ(tensor["rms_error"].get<double>() > 0, tensor["dtype"] == "q8_0") << tensor.dump();
}

TEST(ConvertToGguf, GoesThereAndBack) {
  const TemporaryFolder folder;
  ASSERT_EQ(to_gguf(classics_5m(), folder / "m.gguf").exit_code, 0);
  const ProcessResult back = mamba2_command({"convert", folder / "m.gguf", folder / "back", "--dtype", "bf16"});
  ASSERT_EQ(back.exit_code, 0) << back.err;
  const auto before = open_tensors(classics_5m()), after = open_tensors(folder / "back");
  ASSERT_EQ(after->tensors().size(), before->tensors().size());
  for (const TensorInfo& info : before->tensors()) {
    SCOPED_TRACE(info.name);
    const Tensor want = before->read(info.name), got = after->read(info.name);
    ASSERT_EQ(got.dtype, DType::bf16);
    ASSERT_EQ(got.shape, want.shape);
    EXPECT_EQ(std::memcmp(got.data, want.data, want.bytes()), 0);
  }
  EXPECT_EQ(read_whole(folder / "back/tokenizer.json"), read_whole(classics_5m() + "/tokenizer.json"));
  EXPECT_EQ(ids_after(folder / "back"), ids_after(classics_5m()));
}

TEST(ConvertToGguf, MakesARandomModelOfAPublishedShape) {
  const TemporaryFolder folder;
  const std::string out = folder / "m.gguf";
  ASSERT_EQ(mamba2_command({"convert", "--shape", "130m", out, "--format", "gguf", "--dtype", "q8_0"}).exit_code, 0);
  const Json info = run_json({"info", "--model", out}).at(0);
  EXPECT_EQ(info["config"]["hidden_size"], 768);
  EXPECT_EQ(info["config"]["vocab_size"], 50288);
  EXPECT_EQ(info["tensors"].size(), 2U + 9 * 24);
}

class KilledGgufConversion : public testing::TestWithParam<std::uintmax_t> {};

TEST_P(KilledGgufConversion, LeavesAWholeFileOrNone) {
  const TemporaryFolder folder;
  const std::string out = folder / "m.gguf";
  RunOptions options;
  options.signal = SIGKILL;
  options.when = [&](const ProcessResult&) {
    std::error_code gone;
    std::uintmax_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(folder.path(), gone))
      bytes = std::max(bytes, entry.file_size(gone));
    return bytes != static_cast<std::uintmax_t>(-1) && bytes >= GetParam();
  };
  to_gguf(classics_5m(), out, "f32", options);
  if (fs::exists(out)) {
    EXPECT_EQ(ids_after(out), ids_after(classics_5m(), "f32"));
  }
  EXPECT_EQ(to_gguf(classics_5m(), out, "f32").exit_code, 0) << "the next one finds its way";
}

INSTANTIATE_TEST_SUITE_P(AtSeveralPoints, KilledGgufConversion, testing::Values(0, 1, 1 << 20, 8 << 20, 16 << 20));

TEST(ConvertToGguf, LeavesNothingBehindWhereTheDiskIsFull) {
  const TemporaryFolder folder;
  RunOptions full;
  full.largest_file = 1 << 20;
  expect_error(to_gguf(classics_5m(), folder / "m.gguf", "f32", full), 1, {folder / "m.gguf"});
  EXPECT_EQ(files_in(folder.path()), 0U);
}

TEST(ConvertToGguf, LeavesAFileThatIsThereAsItWasWhereItFails) {
  const TemporaryFolder folder;
  const std::string out = folder.write("m.gguf", "precious");
  RunOptions full;
  full.largest_file = 1 << 20;
  expect_error(to_gguf(classics_5m(), out, "f32", full), 1, {out});
  expect_error(to_gguf(golden("hf-gelu"), out), 1, {"hidden_act"});
  EXPECT_EQ(read_whole(out), "precious");
}

TEST(ConvertToGguf, NamesWhatIsWrong) {
  const TemporaryFolder folder;
  expect_error(to_gguf(classics_5m(), folder.path()), 1, {folder.path(), "is a folder"});
  expect_error(to_gguf(classics_5m(), folder / "m.gguf", "q5_0"), 2, {"dtype is 'q5_0'", "q4_k"});
  expect_error(mamba2_command({"convert", classics_5m(), folder / "out", "--dtype", "q8_0"}), 1, {"--format gguf"});
  ASSERT_EQ(to_gguf(classics_5m(), folder / "m.gguf").exit_code, 0);
  expect_error(to_gguf(folder / "m.gguf", folder / "m.gguf", "q8_0"), 1, {"is the model that is to be converted"});
  EXPECT_EQ(mamba2_command({"convert", classics_5m()}).exit_code, 2);
  EXPECT_EQ(mamba2_command({"convert", "--shape", "130m", classics_5m(), folder / "out"}).exit_code, 2);
  expect_error(mamba2_command({"classify", "x", "--model", folder / "m.gguf"}), 1, {"no classification head"});
}

/// Every command that takes a model takes such a file, and any dtype for it.
TEST(GgufFiles, ServeEveryCommand) {
  const TemporaryFolder folder;
  const std::string model = folder / "m.gguf";
  ASSERT_EQ(to_gguf(classics_5m(), model, "q8_0").exit_code, 0);
  const std::string text = folder.write("text", std::string(40, 'a') + " quiet evening in the old house by the sea.");
  for (const char* dtype : {"auto", "f32", "q4_k"}) {
    SCOPED_TRACE(dtype);
    EXPECT_EQ(ids_after(model, dtype).size(), 8U);
    const Json perplexity =
        run_json({"perplexity", "--file", text, "--context", "8", "--model", model, "--dtype", dtype}).at(0);
    EXPECT_GT(perplexity["perplexity"].get<double>(), 1);
  }
  const std::string ids = folder.write("ids.json", R"({"input_ids": [[1, 2, 3]]})");
  EXPECT_EQ(
      mamba2_command({"forward", "--input", ids, "--output", folder / "o.safetensors", "--model", model}).exit_code, 0);
  const Json info = run_json({"info", "--model", model}).at(0);
  EXPECT_EQ(info["format"], "gguf");
  EXPECT_EQ(info["dialect"], "gguf");
  EXPECT_EQ(run_json({"bench", "--model", model, "--prompt", "8", "--generate", "2", "--repeat", "1"}).size(), 1U);
  EXPECT_EQ(mamba2_command({"doctor", "--model", model}).exit_code, 0);
  EXPECT_EQ(mamba2_command({"tokenize", prompt, "--model", model}).out,
            mamba2_command({"tokenize", prompt, "--model", classics_5m()}).out);
}

}  // namespace
}  // namespace mamba2
