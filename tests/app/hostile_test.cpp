// Files that no honest program wrote: each is one line on stderr, within the file's own memory and about a second.

#include <fmt/core.h>

#include <filesystem>

#include "mamba2/base/file.h"
#include "tests/app/support.h"

namespace mamba2 {
namespace {

constexpr std::int64_t allowed_memory = 64LL << 20;  // beside the file's own size

#ifdef MAMBA2_SANITIZED
constexpr bool counts_memory = false;  // a sanitizer keeps freed memory and has its own
#else
constexpr bool counts_memory = true;
#endif

/// What the program takes with nothing to read: its libraries and this test's own pages, which a fork starts with.
std::int64_t memory_at_rest() {
  static const std::int64_t bytes = mamba2_command({"--version"}).peak_bytes;
  return bytes;
}

/// Runs a command on a model that must be refused.
void expect_refused(const std::string& model, const std::vector<std::string>& texts) {
  const ProcessResult result = mamba2_command({"generate", "--model", model, "x", "-n", "1"});
  expect_error(result, 1, texts);
  std::int64_t size = 0;
  for (const auto& entry : std::filesystem::directory_iterator(model))
    if (entry.is_regular_file()) size += static_cast<std::int64_t>(entry.file_size());
  if (counts_memory) {
    EXPECT_LE(result.peak_bytes, memory_at_rest() + size + allowed_memory);
  }
}

/// No crash, and an error in one line where there is one.
void expect_orderly(const ProcessResult& result, const std::string& what) {
  EXPECT_EQ(result.signal, 0) << what << ": " << result.err;
  EXPECT_THAT(result.exit_code, testing::AnyOf(0, 1)) << what;
  if (result.exit_code == 1) expect_error(result, 1, {});
}

struct BadField {
  const char* field;
  const char* value;
};

void PrintTo(const BadField& bad, std::ostream* out) {
  *out << bad.field << " = " << bad.value;
}

class BadConfig : public testing::TestWithParam<BadField> {};

TEST_P(BadConfig, IsRefusedByName) {
  const auto [field, value] = GetParam();
  const TemporaryFolder folder;
  const std::string model = folder.copy(golden("hf-basic"), "model");
  Json config = read_json_file(model + "/config.json");
  config["time_step_limit"] = {0.0, {{"__float__", "Infinity"}}};  // infinity has no place in what dump() writes
  config[field] = parse_json(value, "test");
  folder.write("model/config.json", config.dump());
  expect_refused(model, {"error: ", field});
}

INSTANTIATE_TEST_SUITE_P(
    OfAModel, BadConfig,
    testing::Values(BadField{"hidden_size", "-32"}, BadField{"hidden_size", "0"}, BadField{"hidden_size", "1e30"},
                    BadField{"hidden_size", "\"32\""}, BadField{"hidden_size", "9223372036854775807"},
                    BadField{"hidden_size", "null"}, BadField{"num_hidden_layers", "-1"},
                    BadField{"num_hidden_layers", "1000000000000"}, BadField{"num_hidden_layers", "[3]"},
                    BadField{"vocab_size", "0"}, BadField{"vocab_size", "-5"},
                    BadField{"vocab_size", "4611686018427387904"}, BadField{"num_heads", "7"},
                    BadField{"num_heads", "0"}, BadField{"head_dim", "-8"}, BadField{"head_dim", "3.5"},
                    BadField{"n_groups", "0"}, BadField{"n_groups", "3"}, BadField{"state_size", "0"},
                    BadField{"state_size", "99999999999"}, BadField{"conv_kernel", "0"}, BadField{"conv_kernel", "-4"},
                    BadField{"expand", "0"}, BadField{"hidden_act", "\"sneaky\""}, BadField{"hidden_act", "7"},
                    BadField{"layer_norm_epsilon", "-1"}, BadField{"layer_norm_epsilon", "\"small\""},
                    BadField{"time_step_limit", "[1]"}, BadField{"time_step_limit", "[5, 1]"},
                    BadField{"use_bias", "\"yes\""}));

TEST(HostileModel, WithAConfigThatIsNoJson) {
  for (const std::string config : {"", "{", "null", "[]", "\xFF\xFE", "{\"hidden_size\": }"}) {
    const TemporaryFolder folder;
    const std::string model = folder.copy(golden("hf-basic"), "model");
    folder.write("model/config.json", config);
    SCOPED_TRACE(config);
    expect_refused(model, {"config.json"});
  }
}

TEST(HostileModel, WithAConfigOfAHundredThousandLevels) {
  const TemporaryFolder folder;
  const std::string model = folder.copy(golden("hf-basic"), "model");
  folder.write("model/config.json", std::string(100000, '['));
  expect_refused(model, {"config.json"});
}

TEST(HostileModel, CutAtAnyPlaceIsRefused) {
  const std::string whole = read_whole(golden("hf-basic/model.safetensors"));
  const TemporaryFolder folder;
  const std::string model = folder.copy(golden("hf-basic"), "model");
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{7}, std::size_t{8}, std::size_t{9}, std::size_t{100},
                                  whole.size() / 2, whole.size() - 1}) {
    SCOPED_TRACE(bytes);
    folder.write("model/model.safetensors", std::string_view(whole).substr(0, bytes));
    expect_refused(model, {"model.safetensors"});
  }
}

TEST(HostileModel, WithFlippedBitsNeverCrashes) {
  const TemporaryFolder folder;
  for (const std::string name : {"hf-basic", "state-spaces"}) {
    const std::string model = folder.copy(golden(name), name);
    const std::string file = name == "hf-basic" ? "model.safetensors" : "pytorch_model.bin";
    const std::string whole = read_whole(model + "/" + file);
    for (std::size_t i = 0; i < 24; ++i) {
      std::string flipped = whole;
      const std::size_t byte = i < 16 ? i * 37 : i * (whole.size() / 24);  // headers are at the front, and at the end
      flipped[byte] = static_cast<char>(flipped[byte] ^ (1 << (i % 8)));
      folder.write(name + "/" + file, flipped);
      expect_orderly(mamba2_command({"info", "--model", model}), name + fmt::format(" byte {}", byte));
    }
  }
}

TEST(HostileModel, IsNamedWhereItIsNotThere) {
  const TemporaryFolder folder;
  expect_error(mamba2_command({"generate", "x", "--model", folder / "none"}), 1, {"none"});
  expect_error(mamba2_command({"generate", "x", "--model", ""}), 2, {"--model"});
  expect_refused(folder.path(), {folder.path(), "config.json"});
  std::filesystem::create_directory(folder / "config.json");
  expect_refused(folder.path(), {"config.json"});
}

TEST(HostileModel, WithAFolderForWeightsOrTokenizer) {
  const TemporaryFolder folder;
  const std::string model = folder.copy(golden("hf-basic"), "model");
  std::filesystem::remove(model + "/model.safetensors");
  expect_refused(model, {model});
  std::filesystem::create_directory(model + "/model.safetensors");
  expect_refused(model, {model});
}

TEST(HostileModel, WithNamesOfControlCharactersIsOneLine) {
  const TemporaryFolder folder;
  expect_error(mamba2_command({"generate", "x", "--model", folder / "a\nb\x1B[31m\xFF"}), 1, {"\\x0a"});
}

TEST(HostileTokenizer, IsRefusedByName) {
  const TemporaryFolder folder;
  const std::string model = folder.copy(classics_5m(), "model");
  for (const std::string tokenizer :
       {"", "{}", "[[[", "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": -1}}}",
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 99999999999}, \"merges\": []}}"}) {
    SCOPED_TRACE(tokenizer);
    folder.write("model/tokenizer.json", tokenizer);
    expect_error(mamba2_command({"generate", "x", "--model", model}), 1, {"tokenizer.json"});
  }
}

TEST(HostileGenerationConfig, IsRefusedByName) {
  const TemporaryFolder folder;
  const std::string model = folder.copy(classics_5m(), "model");
  for (const std::string config : {"[]", "{\"eos_token_id\": \"x\"}", "{\"eos_token_id\": -7}", "{\"top_k\": -7}",
                                   "{\"temperature\": 1e400}", "{\"num_beams\": 1e9}"}) {
    SCOPED_TRACE(config);
    folder.write("model/generation_config.json", config);
    const ProcessResult result = mamba2_command({"generate", "x", "-n", "1", "--model", model});
    // -7 as the end token is harmless, and transformers takes it
    if (result.exit_code != 0) expect_error(result, 1, {"generation_config.json"});
  }
}

TEST(HostileInput, NamesFileAndField) {
  const TemporaryFolder folder;
  auto fails = [&](const std::string& input, const std::vector<std::string>& texts) {
    SCOPED_TRACE(input);
    expect_error(mamba2_command({"generate", "--input", folder.write("input.json", input)}), 1, texts);
  };
  fails(R"({"input_ids": [[1, 8192]]})", {"input.json", "input_ids", "8192"});
  fails(R"({"input_ids": [[1, -1]]})", {"input.json", "input_ids", "-1"});
  fails(R"({"input_ids": [["1"]]})", {"input.json", "input_ids"});
  fails(R"({"ids": [[1]]})", {"input.json", "input_ids"});
  expect_error(mamba2_command({"generate", "--prompts", folder.write("empty", "")}), 1, {"empty"});
  expect_error(mamba2_command({"generate", "--prompts", folder / "none"}), 1, {"none"});
  expect_error(mamba2_command({"generate", "--prompts", folder.path()}), 1, {folder.path()});
}

TEST(HostileInput, AnEmptyPromptNeedsAFirstToken) {
  const TemporaryFolder folder;
  const std::string file = folder.write("input.json", R"({"input_ids": [[]]})");
  expect_error(mamba2_command({"generate", "--model", golden("codestral-consolidated"), "--input", file}), 1,
               {"bos_token_id"});
}

TEST(HostileInput, ALongPromptTakesLittleMoreMemoryThanItsTokens) {
  if (!counts_memory) GTEST_SKIP() << "a sanitizer keeps freed memory";
  const TemporaryFolder folder;
  auto peak = [&](std::size_t tokens) {
    Json ids = Json::array();
    for (std::size_t i = 0; i < tokens; ++i) ids.push_back(i * 31 % 8000);
    const std::string file = folder.write("input.json", Json{{"input_ids", {ids}}}.dump());
    const ProcessResult result = mamba2_command({"generate", "--input", file, "-n", "1", "--json"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.peak_bytes;
  };
  // Prefill goes in pieces of 2048 tokens, whose activations are the same; a token more takes its place in JSON's tree,
  // in the text and in vectors: well under a kilobyte.
  constexpr std::int64_t noise = 8 << 20;  // of the allocator, whose threads have arenas
  EXPECT_LE(peak(6144), peak(2048) + 4096 * 1000 + noise);
}

}  // namespace
}  // namespace mamba2
