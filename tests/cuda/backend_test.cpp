// The CUDA backend: its memory, ops on rows, and steps that are replayed.
#include "tests/cuda/backend_support.h"

namespace mamba2::test {
namespace {

TEST(MakeCudaBackend, SaysWhyThereIsNoneOrOpens) {
  const cuda::Summary summary = cuda::describe();
  if (summary.usable) {
    EXPECT_EQ(make_cuda_backend()->name(), "cuda");
    EXPECT_NE(summary.gpu, "");
    fmt::print("  {}; {}; {}\n", summary.gpu, summary.blas, summary.tuned_shapes);
  } else {
    EXPECT_NE(summary.problem, "");
    EXPECT_THROW(make_cuda_backend(), Error);
  }
}

TEST_F(CudaBackendOps, MemoryKeepsWhatIsUploadedCopiedAndZeroed) {
  Operands o(exact(), 3, Values::as_drawn);
  const Tensor whole = o.dense(Shape{5, 8});
  const HostTensor before(DType::f32, whole.shape), after(DType::f32, whole.shape);
  exact().download(whole, before);
  exact().zero(whole.slice(1, 2, 4));
  exact().copy(whole.slice(0, 0, 1), whole.slice(0, 3, 1));
  exact().download(whole, after);
  for (std::int64_t i = 0; i < 40; ++i) {
    const std::int64_t row = i / 8 == 3 ? 0 : i / 8, column = i % 8;
    const float want =
        column >= 2 && column < 6 ? 0.0F : before.span<float>()[static_cast<std::size_t>(row * 8 + column)];
    EXPECT_EQ(after.span<float>()[static_cast<std::size_t>(i)], want) << i;
  }
  const DeviceTensor fresh = exact().allocate(DType::f32, Shape{1000});
  const HostTensor zeros(DType::f32, Shape{1000});
  exact().download(fresh, zeros);
  for (const float value : zeros.span<float>()) ASSERT_EQ(value, 0.0F);
}

TEST_F(CudaBackendOps, OutOfMemorySaysHowMuchAndLeavesTheBackendUsable) {
  try {
    (void)exact().allocate(DType::f32, Shape{std::int64_t{1} << 40});
    FAIL() << "four terabytes were given";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("out of memory"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("4398046511104"), std::string::npos) << error.what();
  }
  agree("after it", exact(), foldings, [&](Operands& o) {
    const Tensor x = o.rows(2, 8), out = o.unwritten(2, 8);
    o.backend().run(RmsNorm{.x = x, .weight = o.dense(Shape{8}), .eps = 1e-5, .out = out});
    o.result(out);
  });
}

TEST_F(CudaBackendOps, Embedding) {
  for (const DType held : {DType::f32, DType::bf16, DType::f16})
    for (const std::int64_t width : {1, 7, 64, 300})
      agree(fmt::format("{} width {}", name(held), width), exact(), 0, [&](Operands& o) {
        const mamba2::Embedding op{.ids = o.integers({4, 0, 4, 2}),
                                   .weight = o.weight(5, width, DType::f32, held),
                                   .out = o.unwritten(4, width)};
        o.backend().run(op);
        o.result(op.out);
      });
}

TEST_F(CudaBackendOps, EmbeddingOfQuantisedTables) {
  for (const DType held : {DType::q8_0, DType::q4_0, DType::q4_k, DType::q6_k})
    for (const std::int64_t width : {256, 768, 2560})
      agree(fmt::format("{} width {}", name(held), width), exact(), 0, [&](Operands& o) {
        const mamba2::Embedding op{.ids = o.integers({4, 0, 4, 2}),
                                   .weight = o.weight(5, width, DType::f32, held),
                                   .out = o.unwritten(4, width)};
        o.backend().run(op);
        o.result(op.out);
      });
}

constexpr std::initializer_list<std::int64_t> widths{1, 3, 4, 7, 8, 33, 100, 768};

TEST_F(CudaBackendOps, RmsNorm) {
  for (const std::int64_t rows : {0, 1, 5})
    for (const std::int64_t width : widths)
      for (const bool gaps : {false, true})
        agree(fmt::format("{} x {}", rows, width), exact(), foldings, [&](Operands& o) {
          const Tensor x = gaps ? o.rows(rows, width) : o.dense(Shape{rows, width});
          const mamba2::RmsNorm op{
              .x = x, .weight = o.dense(Shape{width}), .eps = 1e-5, .out = o.unwritten(rows, width)};
          o.backend().run(op);
          o.result(op.out);
        });
}

TEST_F(CudaBackendOps, RmsNormAndTheProductOfItsRows) {
  for (const std::int64_t rows : {1, 2, 3, 8, 9})
    for (const std::int64_t width : {1, 31, 64, 768})
      for (const bool in_place : {false, true})
        agree(fmt::format("{} x {}{}", rows, width, in_place ? " onto its input" : ""), exact(), 2 * foldings,
              [&](Operands& o) {
                const Tensor x = o.dense(Shape{rows, width}), normed = o.dense(Shape{rows, width});
                const Tensor out = in_place ? x : o.dense(Shape{rows, 131});
                const PreparedWeight* weight = o.weight(out.size(1), width, DType::f32, DType::bf16);
                o.backend().run(mamba2::RmsNorm{.x = x, .weight = o.dense(Shape{width}), .eps = 1e-5, .out = normed});
                o.backend().run(Linear{.x = normed, .weight = weight, .bias = {}, .add = out, .out = out});
                o.result(normed);
                o.result(out);
              });
}

TEST_F(CudaBackendOps, GatedRmsNorm) {
  for (const std::int64_t group : widths)
    for (const std::int64_t groups : {1, 3})
      for (const GateOrder order : {GateOrder::gate_first, GateOrder::norm_first})
        for (const bool weighted : {false, true})
          for (const bool in_place : {false, true})
            agree(fmt::format("{} groups of {}{}{}{}", groups, group, weighted ? " weighted" : "",
                              in_place ? " in place" : "", order == GateOrder::norm_first ? " norm first" : ""),
                  exact(), functions + foldings, [&](Operands& o) {
                    const std::int64_t width = group * groups;
                    mamba2::GatedRmsNorm op{.y = o.rows(5, width), .z = o.rows(5, width, 3.0), .weight = {}, .out = {}};
                    if (weighted) op.weight = o.dense(Shape{width});
                    op.group_size = group;
                    op.order = order;
                    op.out = in_place ? op.y : o.unwritten(5, width);
                    o.backend().run(op);
                    o.result(op.out);
                  });
}

TEST_F(CudaBackendOps, Activations) {
  for (int act = 0; act <= 6; ++act)
    for (const std::int64_t width : {1, 33, 300})
      for (const bool gated : {false, true})
        agree(fmt::format("{} width {}{}", name(static_cast<Activation>(act)), width, gated ? " gated" : ""), exact(),
              functions, [&](Operands& o) {
                const Tensor x = o.rows(4, width, 4.0), gate = o.rows(4, width, 4.0), out = o.unwritten(4, width);
                const auto activation = static_cast<Activation>(act);
                if (gated)
                  o.backend().run(GatedActivation{.value = x, .gate = gate, .act = activation, .out = out});
                else
                  o.backend().run(Activate{.x = x, .act = activation, .out = out});
                o.result(out);
              });
}

TEST_F(CudaBackendOps, GatherRows) {
  for (const std::int64_t width : {1, 30, 1000})
    agree(fmt::format("width {}", width), exact(), 0, [&](Operands& o) {
      const mamba2::GatherRows op{.x = o.rows(4, width), .rows = o.integers({3, 3, 0}), .out = o.unwritten(3, width)};
      o.backend().run(op);
      o.result(op.out);
    });
}

TEST_F(CudaBackendOps, CrossEntropy) {
  for (const std::int64_t classes : {1, 3, 100, 5000})
    for (const double spread : {0.1, 1.0, 30.0})
      agree(fmt::format("{} classes, spread {}", classes, spread), exact(), functions, [&](Operands& o) {
        const std::vector<std::int32_t> labels{static_cast<std::int32_t>(classes - 1), -100, 0};
        const Tensor logits = o.rows(3, classes, spread);
        const mamba2::CrossEntropy op{.logits = logits, .labels = o.integers(labels), .out = o.dense(Shape{3})};
        o.backend().run(op);
        o.result(op.out);
        o.result(logits);
      });
}

/// What a step of five ops gives for each of the inputs named, of two, from the same state every time.
std::vector<std::vector<float>> steps_of(Backend& backend, std::span<const std::size_t> inputs) {
  constexpr std::int64_t hidden = 100, heads = 2, inner = 128, conv_dim = inner + 2 * 64;
  Operands o(backend, 7, Values::as_drawn);
  const Batch batch = o.batch({1, 1});
  const Tensor choices[] = {o.dense(Shape{2, hidden}), o.dense(Shape{2, hidden})};
  const Tensor x = o.dense(Shape{2, hidden}), normed = o.unwritten(2, hidden), out = o.unwritten(2, hidden);
  const Tensor weight = o.dense(Shape{hidden});
  const PreparedWeight *in = o.weight(2 * inner + 2 * 64 + heads, hidden, DType::f32, DType::bf16),
                       *back = o.weight(hidden, inner, DType::f32, DType::bf16);
  const Tensor conv_state = o.dense(Shape{3, conv_dim, 3}), ssm_state = o.dense(Shape{3, heads, 64, 64});
  const Mixer mixer{.projected = o.unwritten(2, 2 * inner + 2 * 64 + heads),
                    .conv_weight = o.dense(Shape{conv_dim, 4}, 0.5),
                    .conv_bias = o.dense(Shape{conv_dim}),
                    .act = Activation::silu,
                    .dt_bias = o.dense(Shape{heads}, 1.0, -2.0),
                    .A_log = o.dense(Shape{heads}),
                    .D = o.dense(Shape{heads}),
                    .limit = {},
                    .n_groups = 1,
                    .norm_weight = o.dense(Shape{inner}),
                    .norm_group_size = inner,
                    .batch = batch,
                    .conv_state = o.dense(Shape{3, conv_dim, 3}),
                    .ssm_state = o.dense(Shape{3, heads, 64, 64}),
                    .xBC = o.unwritten(2, conv_dim),
                    .dt = o.unwritten(2, heads),
                    .y = o.unwritten(2, inner),
                    .out = o.unwritten(2, inner)};
  std::vector<std::vector<float>> results;
  for (const std::size_t input : inputs) {
    backend.copy(choices[input], x);
    backend.copy(conv_state, mixer.conv_state);
    backend.copy(ssm_state, mixer.ssm_state);
    backend.run(mamba2::RmsNorm{.x = x, .weight = weight, .eps = 1e-5, .out = normed});
    backend.run(Linear{.x = normed, .weight = in, .bias = {}, .add = {}, .out = mixer.projected});
    backend.run(mixer);
    backend.run(Linear{.x = mixer.out, .weight = back, .bias = {}, .add = x, .out = out});
    backend.run(Activate{.x = out, .act = Activation::tanh, .out = out});
    std::vector<float>& result = results.emplace_back();
    for (const Tensor& tensor : {out, mixer.ssm_state}) {
      const HostTensor host(DType::f32, tensor.shape);
      backend.download(tensor, host);
      result.insert(result.end(), host.span<float>().begin(), host.span<float>().end());
    }
  }
  return results;
}

TEST_F(CudaBackendOps, StepsThatComeAgainAreReplayedWithWhatTheirBuffersHoldNow) {
  constexpr std::size_t first[] = {0}, second[] = {1}, both[] = {0, 0, 0, 1, 0, 1};
  const std::vector<float> want[] = {steps_of(*make_cuda_backend(cuda::Precision::exact), first)[0],
                                     steps_of(*make_cuda_backend(cuda::Precision::exact), second)[0]};
  ASSERT_NE(want[0], want[1]);
  // launched, then recorded, then replayed
  const auto got = steps_of(*make_cuda_backend(cuda::Precision::exact), both);
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], want[both[i]]) << "step " << i;
}

TEST_F(CudaBackendOps, IndicesOutsideTheirTensorsGiveNaN) {
  Operands o(exact(), 1, Values::as_drawn);
  const Tensor embedded = o.dense(Shape{2, 8}), gathered = o.dense(Shape{1, 4}), loss = o.dense(Shape{1});
  exact().run(
      mamba2::Embedding{.ids = o.integers({5, -1}), .weight = o.weight(5, 8, DType::f32, DType::f32), .out = embedded});
  exact().run(mamba2::GatherRows{.x = o.dense(Shape{4, 4}), .rows = o.integers({4}), .out = gathered});
  exact().run(mamba2::CrossEntropy{.logits = o.dense(Shape{1, 7}), .labels = o.integers({7}), .out = loss});
  for (const Tensor& tensor : {embedded, gathered, loss}) {
    const HostTensor host(DType::f32, tensor.shape);
    exact().download(tensor, host);
    for (const float value : host.span<float>()) EXPECT_TRUE(std::isnan(value));
  }
}

}  // namespace
}  // namespace mamba2::test
