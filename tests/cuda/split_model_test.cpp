// Models that are split over ranks on GPUs: all on one GPU, where the ranks speak through the host, and over NCCL where
// there are several.
#include <cuda_runtime_api.h>

#include <cstring>

#include "mamba2/generate/generate.h"
#include "mamba2/model/locate.h"
#include "mamba2/ops/thread_communicator.h"
#include "tests/cuda/backend_support.h"
#include "tests/model/drawn_model.h"
#include "tests/model/support.h"

namespace mamba2::test {
namespace {

/// Ranks on one GPU, each with a stream: what they hold is copied to the host and added up there, in their order.
class HostRelay : public Communicator {
 public:
  struct Shared {
    explicit Shared(int ranks) : meeting(ranks), data(static_cast<std::size_t>(ranks)) {}
    Meeting meeting;
    std::vector<HostTensor> data;
  };
  HostRelay(int rank, int size, std::shared_ptr<Shared> shared)
      : Communicator(rank, size), shared_(std::move(shared)) {}

  void all_reduce(const Tensor& data, void* stream) override {
    exchange(data, stream, [&](const HostTensor& mine) {
      const HostTensor sum(DType::f64, data.shape), wide(DType::f64, data.shape);
      for (const HostTensor& of_rank : shared_->data) {
        convert(of_rank, wide);
        for (std::size_t i = 0; i < sum.span<double>().size(); ++i) sum.span<double>()[i] += wide.span<double>()[i];
      }
      convert(sum, mine);
    });
  }
  void broadcast(const Tensor& data, void* stream) override {
    exchange(data, stream, [&](const HostTensor& mine) {
      std::memcpy(mine.view().data, shared_->data.front().view().data, mine.view().bytes());
    });
  }
  void abort() noexcept override { shared_->meeting.call_off(); }

 private:
  template <class Compute>
  void exchange(const Tensor& data, void* stream, Compute&& compute) {
    auto* const on = static_cast<cudaStream_t>(stream);
    HostTensor& mine = shared_->data[static_cast<std::size_t>(rank())];
    mine = HostTensor(data.dtype, data.shape);
    ASSERT_EQ(cudaMemcpyAsync(mine.view().data, data.data, data.bytes(), cudaMemcpyDeviceToHost, on), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(on), cudaSuccess);
    shared_->meeting.wait();
    const HostTensor result(data.dtype, data.shape);
    compute(result);
    ASSERT_EQ(cudaMemcpyAsync(data.data, result.view().data, data.bytes(), cudaMemcpyHostToDevice, on), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(on), cudaSuccess);
    shared_->meeting.wait();
  }

  std::shared_ptr<Shared> shared_;
};

using Ranks = std::vector<std::unique_ptr<Backend>>;

Ranks on_one_gpu(cuda::Precision precision, int ranks) {
  Ranks backends;
  const auto shared = std::make_shared<HostRelay::Shared>(ranks);
  for (int rank = 0; rank < ranks; ++rank) {
    backends.push_back(make_cuda_backend(precision));
    if (ranks > 1) backends.back()->join(std::make_unique<HostRelay>(rank, ranks, shared));
  }
  return backends;
}

Ranks on_several_gpus(cuda::Precision precision, int ranks) {
  if (ranks > 1) return make_cuda_backends(precision, ranks);
  return on_one_gpu(precision, ranks);
}

struct Placement {
  const char* name;
  Ranks (*make)(cuda::Precision precision, int ranks);
  int gpus;
};

class SplitOverRanks : public testing::TestWithParam<Placement> {
 protected:
  void SetUp() override {
    const cuda::Summary gpu = cuda::describe();
    if (!gpu.usable) GTEST_SKIP() << gpu.problem;
    if (gpu.gpus < GetParam().gpus) GTEST_SKIP() << "there is one GPU, and several are wanted";
    if (GetParam().gpus > 1 && !gpu.nccl.starts_with("NCCL")) GTEST_SKIP() << gpu.nccl;
  }
  static Ranks ranks(cuda::Precision precision, int count) { return GetParam().make(precision, count); }

  static Mamba2ForCausalLM open(const std::string& golden, int count) {
    const ModelFiles files = locate_model(golden_folder(golden));
    return Mamba2ForCausalLM(Mamba2Model(files.read_config(), open_tensors(files.weights),
                                         ranks(cuda::Precision::exact, count), LoadOptions{}));
  }
};

INSTANTIATE_TEST_SUITE_P(, SplitOverRanks,
                         testing::Values(Placement{"on_one_gpu", on_one_gpu, 1},
                                         Placement{"on_several_gpus", on_several_gpus, 2}),
                         [](const auto& placement) { return std::string(placement.param.name); });

/// Pure Mamba with one group and several, attention with and without its own heads, MLPs, the norm before the gate.
TEST_P(SplitOverRanks, GoldenModelsGiveTheirLogitsAndTexts) {
  for (const char* name : {"hf-basic", "hf-groups", "fork-hybrid", "fork-rope-linear", "state-spaces-hybrid",
                           "state-spaces-d-ssm", "state-spaces-norm-before-gate"}) {
    Mamba2ForCausalLM model = open(name, 2);
    const Golden golden(name);
    const Tensor logits = golden.read("single.logits");
    EXPECT_LE(relative_error(logits_of(model, golden.integers("single.input_ids")),
                             logits.reshape({logits.size(1), logits.size(2)})),
              5e-5)
        << name;
    const std::optional<Greedy> greedy = greedy_of(name);
    ASSERT_TRUE(greedy);
    GenerationConfig config;
    config.max_new_tokens = std::ssize(greedy->continuation);
    config.eos_token_id.emplace();
    EXPECT_EQ(generate(model, {&greedy->prompt, 1}, config).results.front().new_ids, greedy->continuation) << name;
  }
}

/// Shapes that have kernels of their own, with weights in 16 bits: prompts scanned on tensor cores, fused steps, with
/// groups of the norm on each rank and over both.
TEST_P(SplitOverRanks, TunedShapesAreAsCloseToTheTruthAsTheWholeModel) {
  for (const std::int64_t groups : {1, 2}) {
    Mamba2Config config;
    config.num_hidden_layers = 2;
    config.vocab_size = 512;
    config.hidden_size = 256;
    config.num_heads = 8;
    config.n_groups = groups;
    config.tie_word_embeddings = true;
    std::vector<std::int32_t> ids;
    for (std::int32_t i = 0; i < 150; ++i) ids.push_back(i * 37 % 512);
    auto logits = [&](Ranks on) {
      Mamba2ForCausalLM model(
          Mamba2Model(config, std::make_unique<DrawnTensors>(config, 3), std::move(on), {.dtype = "bf16"}));
      Mamba2Cache cache = model.make_cache(1);
      const std::span<const std::int32_t> all(ids);
      HostTensor made(model.model().backend().activation_dtype(), {std::ssize(ids), config.vocab_size});
      convert(logits_in_pieces(model, cache, all.first(140), 140), made.view().slice(0, 0, 140));
      convert(logits_in_pieces(model, cache, all.subspan(140), 1), made.view().slice(0, 140, 10));
      return made;
    };
    const HostTensor truth = logits(reference_ranks(1));
    for (const auto precision : {cuda::Precision::exact, cuda::Precision::fast}) {
      const bool rounds = precision == cuda::Precision::fast;
      const double whole = relative_error(logits(ranks(precision, 1)), truth);
      const double split = relative_error(logits(ranks(precision, 2)), truth);
      // Beside what the whole loses: each rank's products and their sum are rounded, in each of two layers.
      const double roundings = 6 * (rounds ? 0x1p-9 : 0x1p-24);
      EXPECT_LE(split, 2 * whole + roundings) << groups << " groups, " << (rounds ? "fast" : "exact");
      fmt::print("  {} groups, {}: whole {:.3g}, split {:.3g}\n", groups, rounds ? "fast" : "exact", whole, split);
    }
  }
}

TEST_P(SplitOverRanks, SeveralSequencesThatAreSampledGetTheTextsOfTheWholeModel) {
  Mamba2ForCausalLM whole = open("fork-hybrid", 1), split = open("fork-hybrid", 2);
  GenerationConfig config;
  config.max_new_tokens = 24;
  config.do_sample = true;
  config.seed = 11;
  const std::vector<std::vector<std::int32_t>> prompts{{5, 9, 2}, {7}, {1, 2, 3, 4, 5, 6}};
  const GenerateOutput want = generate(whole, prompts, config), got = generate(split, prompts, config);
  for (std::size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(got.results[i].ids, want.results[i].ids) << i;
}

}  // namespace
}  // namespace mamba2::test
