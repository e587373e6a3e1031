#include <filesystem>

#include "tests/app/support.h"

namespace mamba2 {
namespace {

std::string dialect_of(const std::string& name) {
  for (std::string dialect : {"fork", "state-spaces", "codestral"})
    if (name.starts_with(dialect)) return dialect;
  return "huggingface";
}

TEST(Info, KnowsEveryDialect) {
  int folders = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden(""))) {
    if (!entry.is_directory()) continue;
    ++folders;
    const std::string name = entry.path().filename().string();
    const std::vector<Json> results = run_json({"info", "--model", entry.path().string()});
    ASSERT_EQ(results.size(), 1U);
    const Json& info = results[0];
    EXPECT_THAT(keys(info), testing::IsSupersetOf({"dialect", "format", "architecture", "config", "parameters",
                                                   "weight_bytes", "state_bytes_per_sequence", "tensors"}));
    EXPECT_EQ(info["dialect"], dialect_of(name)) << name;
    EXPECT_EQ(info["format"], name.starts_with("state-spaces") ? "pytorch" : "safetensors") << name;
    std::int64_t elements = 0;
    for (const Json& tensor : info["tensors"]) {
      EXPECT_THAT(keys(tensor), testing::ElementsAre("name", "dtype", "shape", "file"));
      std::int64_t product = 1;
      for (const std::int64_t extent : tensor["shape"]) product *= extent;
      elements += product;
    }
    EXPECT_EQ(info["parameters"], elements) << name;
  }
  EXPECT_GE(folders, 18);
}

TEST(Info, SaysItInWords) {
  const ProcessResult result = mamba2_command({"info", "--tensors"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, testing::HasSubstr("Mamba2ForCausalLM (huggingface dialect, safetensors)"));
  EXPECT_THAT(result.out, testing::HasSubstr("backbone.embeddings.weight"));
}

}  // namespace
}  // namespace mamba2
