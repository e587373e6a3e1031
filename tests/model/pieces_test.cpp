// How many tokens go through the layers at a time is a matter of speed: results are the same bits where a backend scans
// token by token.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "mamba2/cpu/cpu_backend.h"
#include "mamba2/model/locate.h"
#include "mamba2/reference/reference_backend.h"
#include "support.h"

namespace mamba2 {
namespace {

using Case = std::tuple<std::string, std::string>;  // golden model, backend

class PiecesOf : public ::testing::TestWithParam<Case> {
 protected:
  static std::unique_ptr<Backend> backend() {
    if (std::get<1>(GetParam()) == "reference") return make_reference_backend();
    return make_cpu_backend(2, cpu::choose_isa(), cpu::ScanForm::sequential, cpu::Bf16Products::always);
  }

  Mamba2Model model = [] {
    const ModelFiles files = locate_model(test::golden_folder(std::get<0>(GetParam())));
    return Mamba2Model(files.read_config(), open_tensors(files.weights), backend(), LoadOptions{});
  }();
};

std::string readable(const ::testing::TestParamInfo<Case>& of) {
  std::string text = std::get<0>(of.param) + "_on_" + std::get<1>(of.param);
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

INSTANTIATE_TEST_SUITE_P(Models, PiecesOf,
                         ::testing::Combine(::testing::Values("hf-groups", "hf-bf16", "fork-hybrid",
                                                              "fork-rope-dynamic", "state-spaces-d-ssm"),
                                            ::testing::Values("reference", "cpu_deterministic")),
                         readable);

TEST_P(PiecesOf, AnyLengthGiveTheBitsOfTheWhole) {
  std::vector<std::vector<std::int32_t>> texts;
  for (const std::size_t tokens : {1, 40, 0, 7, 129}) {
    std::vector<std::int32_t>& ids = texts.emplace_back(tokens);
    for (std::size_t i = 0; i < tokens; ++i) ids[i] = static_cast<std::int32_t>((i * i + 3 * tokens) % 50);
  }
  std::vector<SequenceInput> inputs;
  for (const auto& ids : texts) inputs.push_back({.input_ids = ids, .slot = std::ssize(inputs)});
  auto outputs = [&](std::int64_t piece) {
    Mamba2Cache cache = model.make_cache(std::ssize(texts));
    ForwardOutput output = model.forward(
        inputs, cache, {.output_hidden_states = true, .output_last_hidden_state = true, .piece_tokens = piece});
    std::vector<HostTensor> all = std::move(output.hidden_states);
    all.push_back(std::move(output.last_hidden_state));
    const LayerState& last = cache.layer(cache.layers() - 1);
    for (const DeviceTensor* state : {&last.conv_state, &last.ssm_state})
      if (!state->view.empty()) all.push_back(test::on_host(model.backend(), *state));
    return all;
  };
  const std::vector<HostTensor> whole = outputs(0);
  for (const std::int64_t piece : {1, 3, 40, 64, 176, 5000}) {
    const std::vector<HostTensor> cut = outputs(piece);
    ASSERT_EQ(cut.size(), whole.size());
    for (std::size_t i = 0; i < whole.size(); ++i)
      EXPECT_TRUE(test::same_bits(cut[i].view(), whole[i].view())) << piece << " tokens at a time, tensor " << i;
  }
}

TEST_P(PiecesOf, AreAsManyTokensAsTheBackendWants) {
  EXPECT_EQ(model.piece_tokens(), 1024);
  Mamba2Cache cache = model.make_cache(1);
  const std::vector<std::int32_t> ids{1};
  const SequenceInput input{.input_ids = ids};
  EXPECT_EQ(test::error_of([&] {
              (void)model.forward({&input, 1}, cache, {.piece_tokens = -1});
            }),
            "piece_tokens is -1, expected 0 or more");
}

}  // namespace
}  // namespace mamba2
