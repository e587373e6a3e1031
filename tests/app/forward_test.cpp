#include <algorithm>
#include <cmath>

#include "mamba2/base/file.h"
#include "mamba2/checkpoint/tensor_source.h"
#include "tests/app/support.h"

namespace mamba2 {
namespace {

const std::vector<std::string> cases = {"hf-basic",
                                        "hf-groups",
                                        "hf-odd",
                                        "hf-gelu",
                                        "hf-bf16",
                                        "hf-f16-sharded",
                                        "hf-time-step-limit",
                                        "fork-hybrid",
                                        "fork-rope-dynamic",
                                        "fork-rope-linear",
                                        "state-spaces",
                                        "state-spaces-hybrid",
                                        "state-spaces-d-ssm",
                                        "state-spaces-norm-before-gate",
                                        "state-spaces-no-rmsnorm",
                                        "state-spaces-d-has-hdim",
                                        "codestral-consolidated"};

// Sums of a hundred f32 terms through a few layers; the values themselves are f64's rounded to f32.
constexpr double relative_tolerance = 1e-5;

Json rows_of(const TensorSource& source, const std::string& name) {
  const Tensor tensor = source.read(name);
  Json rows = Json::array();
  for (std::int64_t row = 0; row < tensor.size(0); ++row) {
    Json values = Json::array();
    for (std::int64_t i = 0; i < tensor.size(1); ++i)
      values.push_back(static_cast<std::int64_t>(element_as_double(tensor, row * tensor.size(1) + i)));
    rows.push_back(values);
  }
  return rows;
}

double largest(const Tensor& tensor) {
  double most = 0;
  for (std::int64_t i = 0; i < tensor.elements(); ++i) most = std::max(most, std::abs(element_as_double(tensor, i)));
  return most;
}

void expect_near(const Tensor& got, const Tensor& want, const std::string& what) {
  ASSERT_EQ(got.shape, want.shape) << what;
  const double bound = relative_tolerance * std::max(largest(want), 1e-30);
  double error = 0;
  for (std::int64_t i = 0; i < want.elements(); ++i)
    error = std::max(error, std::abs(element_as_double(got, i) - element_as_double(want, i)));
  EXPECT_LE(error, bound) << what;
}

class Forward : public testing::TestWithParam<std::string> {
 protected:
  std::string model() const { return golden(GetParam()); }
  std::unique_ptr<TensorSource> run(const Json& input, std::vector<std::string> options) const {
    const std::string file = folder_.write("input.json", input.dump());
    options.insert(options.begin(), {"forward", "--model", model(), "--input", file, "--output",
                                     folder_ / "output.safetensors", "--device", "reference"});
    const ProcessResult result = mamba2_command(options);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.out, "");
    return open_tensors(folder_ / "output.safetensors");
  }

  TemporaryFolder folder_;
  std::unique_ptr<TensorSource> golden_ = open_tensors(golden(GetParam()) + "/golden.safetensors");
};
class ForwardPadded : public Forward {};
class ForwardWithLabels : public Forward {};

/// The cases whose golden tensors hold this one.
std::vector<std::string> cases_with(const std::string& tensor) {
  std::vector<std::string> found;
  for (const std::string& name : cases)
    if (open_tensors(golden(name) + "/golden.safetensors")->find(tensor) != nullptr) found.push_back(name);
  return found;
}

TEST_P(Forward, WritesTheGoldenTensorsWholeAndInPieces) {
  const Json input = {{"input_ids", rows_of(*golden_, "single.input_ids")}};
  std::vector<std::string> splits = {"19", "5", "1"};
  // The angles of dynamic scaling depend on the length, which the first pieces can't know.
  if (GetParam() == "fork-rope-dynamic") splits.resize(1);
  for (const std::string& split : splits) {
    const auto output = run(input, {"--hidden-states", "--states", "--split", split});
    for (const TensorInfo& tensor : golden_->tensors()) {
      const std::string prefix = "single.";
      if (!tensor.name.starts_with(prefix) || tensor.name == "single.input_ids" ||
          tensor.name.ends_with("ungrouped_norm"))
        continue;
      const std::string name = tensor.name.substr(prefix.size());
      ASSERT_NE(output->find(name), nullptr) << name;
      EXPECT_EQ(output->find(name)->dtype, DType::f32);
      expect_near(output->read(name), golden_->read(tensor.name), name + " split " + split);
    }
  }
}

TEST_P(ForwardPadded, LeavesZerosUnderTheMask) {
  const Json mask = rows_of(*golden_, "padded.attention_mask");
  const auto output = run({{"input_ids", rows_of(*golden_, "padded.input_ids")}, {"attention_mask", mask}}, {});
  const Tensor got = output->read("logits"), want = golden_->read("padded.logits");
  ASSERT_EQ(got.shape, want.shape);
  const double bound = relative_tolerance * largest(want);
  std::int64_t element = 0;
  for (std::int64_t row = 0; row < got.size(0); ++row)
    for (std::int64_t i = 0; i < got.size(1); ++i) {
      const bool is_token = mask[static_cast<std::size_t>(row)][static_cast<std::size_t>(i)] == 1;
      double error = 0;
      for (std::int64_t j = 0; j < got.size(2); ++j, ++element)
        error = std::max(error,
                         std::abs(element_as_double(got, element) - (is_token ? element_as_double(want, element) : 0)));
      EXPECT_LE(error, is_token ? bound : 0) << row << ", " << i;
    }
}

TEST_P(ForwardWithLabels, WritesTheLoss) {
  const auto output =
      run({{"input_ids", rows_of(*golden_, "single.input_ids")}, {"labels", rows_of(*golden_, "loss.labels")}}, {});
  expect_near(output->read("loss"), golden_->read("loss.value"), "loss");
}

INSTANTIATE_TEST_SUITE_P(OfEveryDialect, Forward, testing::ValuesIn(cases));
INSTANTIATE_TEST_SUITE_P(OfEveryDialect, ForwardPadded, testing::ValuesIn(cases_with("padded.input_ids")));
INSTANTIATE_TEST_SUITE_P(OfEveryDialect, ForwardWithLabels, testing::ValuesIn(cases_with("loss.labels")));

TEST(ForwardCommand, NamesWhatIsWrongWithItsInput) {
  const TemporaryFolder folder;
  const std::string output = folder / "output.safetensors";
  auto fails = [&](const std::string& input, const std::vector<std::string>& texts) {
    const std::string file = folder.write("input.json", input);
    SCOPED_TRACE(input);
    expect_error(mamba2_command({"forward", "--input", file, "--output", output}), 1, texts);
    EXPECT_FALSE(file_exists(output));
  };
  fails("", {"input.json"});
  fails("[1, 2]", {"input.json", "input_ids"});
  fails(R"({"input_ids": 7})", {"input.json", "input_ids"});
  fails(R"({"input_ids": []})", {"input.json", "input_ids"});
  fails(R"({"input_ids": [[]]})", {"input.json", "input_ids"});
  fails(R"({"input_ids": [1, 2]})", {"input.json", "input_ids"});
  fails(R"({"input_ids": [["a"]]})", {"input.json", "input_ids", "\"a\""});
  fails(R"({"input_ids": [[1.5]]})", {"input.json", "input_ids", "1.5"});
  fails(R"({"input_ids": [[-1]]})", {"input.json", "input_ids", "-1"});
  fails(R"({"input_ids": [[8192]]})", {"input.json", "input_ids", "8192"});
  fails(R"({"input_ids": [[4294967297]]})", {"input.json", "input_ids", "4294967297"});
  fails(R"({"input_ids": [[18446744073709551615]]})", {"input.json", "input_ids"});
  fails(R"({"input_ids": [[1, 2], [3]]})", {"input.json", "row 1"});
  fails(R"({"input_ids": [[1, 2]], "attention_mask": [[1]]})", {"input.json", "attention_mask"});
  fails(R"({"input_ids": [[1, 2]], "attention_mask": [[1, 1], [1, 1]]})", {"input.json", "attention_mask"});
  fails(R"({"input_ids": [[1, 2]], "attention_mask": [[1, 2]]})", {"input.json", "attention_mask", "2"});
  fails(R"({"input_ids": [[1, 2]], "labels": [[1]]})", {"input.json", "labels"});
  fails(R"({"input_ids": [[1, 2]], "labels": [[1, 9000]]})", {"input.json", "labels", "9000"});
  fails(R"({"input_ids": [[1, 2]], "input_ids": [[1]]})", {"input.json", "input_ids"});
}

TEST(ForwardCommand, NamesAnOutputThatCantBeWritten) {
  const TemporaryFolder folder;
  const std::string file = folder.write("input.json", R"({"input_ids": [[1, 2]]})");
  expect_error(mamba2_command({"forward", "--input", file, "--output", folder / "none/out"}), 1, {"none/out"});
  expect_error(mamba2_command({"forward", "--input", file, "--output", folder.path()}), 1, {folder.path()});
  RunOptions full;
  full.largest_file = 4096;
  expect_error(mamba2_command({"forward", "--input", file, "--output", folder / "out"}, full), 1, {folder / "out"});
}

TEST(ForwardCommand, NamesAnInputThatCantBeRead) {
  const TemporaryFolder folder;
  expect_error(mamba2_command({"forward", "--input", folder / "none", "--output", folder / "out"}), 1, {"none"});
  expect_error(mamba2_command({"forward", "--input", folder.path(), "--output", folder / "out"}), 1, {folder.path()});
}

}  // namespace
}  // namespace mamba2
