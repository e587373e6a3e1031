// Every op of the CUDA backend against the reference in double, shape by shape.  A line for each test says how near its
// worst shape came to the bound; without a GPU the tests are skipped.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>

#include "mamba2/base/error.h"
#include "mamba2/cuda/cuda_backend.h"
#include "tests/cpu/operands.h"

namespace mamba2::test {
namespace {

// Roundings that a kernel has and a plain evaluation does not: exp and tanh good to a few units, folded sums.
constexpr double functions = 16, foldings = 8, chunking = 32;
// Inputs of a product rounded to bf16 or f16: half a unit each of the terms' sum, in units of f32.
constexpr double bf16_inputs = 0x1p-9 / 0x1p-24, f16_inputs = 0x1p-12 / 0x1p-24;

Backend& exact() {
  static const std::unique_ptr<Backend> made = make_cuda_backend(cuda::Precision::exact);
  return *made;
}
Backend& fast() {
  static const std::unique_ptr<Backend> made = make_cuda_backend();
  return *made;
}

class CudaBackendOps : public testing::Test {
 protected:
  void SetUp() override {
    static const cuda::Summary gpu = cuda::describe();
    if (!gpu.usable) GTEST_SKIP() << gpu.problem;
  }
  void TearDown() override {
    if (!worst_.empty()) fmt::print("  worst {:.3f} of the bound: {}\n", worst_share_, worst_);
  }

  /// The body's results agree with the reference's; an Error counts as a failure of this shape alone.
  void agree(const std::string& shape, Backend& backend, double roundings, const Body& body) {
    try {
      const Agreement found = agreement(backend, ++seed_, roundings, body);
      EXPECT_LE(found.error, found.allowed) << shape;
      const double share = found.allowed > 0 ? found.error / found.allowed : found.error > 0 ? INFINITY : 0.0;
      if (worst_.empty() || !(share <= worst_share_)) {
        worst_share_ = share;
        worst_ = fmt::format("{} (error {:.3g}, allowed {:.3g})", shape, found.error, found.allowed);
      }
    } catch (const Error& error) {
      ADD_FAILURE() << shape << ": " << error.what();
    }
  }

 private:
  std::uint64_t seed_ = 100;
  double worst_share_ = 0;
  std::string worst_;
};

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

struct Product {
  std::int64_t rows, in, out;
  DType held;
  bool bias, add;
};

Body product_of(const Product& p) {
  return [p](Operands& o) {
    Linear op{
        .x = o.rows(p.rows, p.in), .weight = o.weight(p.out, p.in, p.held, p.held), .bias = {}, .add = {}, .out = {}};
    if (p.bias) op.bias = o.dense(Shape{p.out});
    if (p.add) op.add = o.rows(p.rows, p.out);
    op.out = o.unwritten(p.rows, p.out);
    o.backend().run(op);
    o.result(op.out);
  };
}

/// The same with rows that the library and vector loads take.
Body aligned_product_of(const Product& p) {
  return [p](Operands& o) {
    Linear op{.x = o.dense(Shape{p.rows, p.in}),
              .weight = o.weight(p.out, p.in, p.held, p.held),
              .bias = {},
              .add = {},
              .out = o.dense(Shape{p.rows, p.out})};
    if (p.bias) op.bias = o.dense(Shape{p.out});
    if (p.add) op.add = op.out;
    o.backend().run(op);
    o.result(op.out);
  };
}

std::string text_of(const Product& p) {
  return fmt::format("{} x {} x {} {}{}{}", p.rows, p.in, p.out, name(p.held), p.bias ? " bias" : "",
                     p.add ? " add" : "");
}

TEST_F(CudaBackendOps, LinearOfFewRows) {
  for (const DType held : {DType::f32, DType::bf16, DType::f16})
    for (const std::int64_t rows : {1, 2, 3, 4, 5, 8})
      for (const std::int64_t in : {1, 31, 64, 100, 264, 768, 2560})
        for (const std::int64_t out : {1, 5, 131}) {
          const Product p{rows, in, out, held, in % 2 == 0, out % 2 == 1};
          agree(text_of(p) + " gaps", exact(), foldings, product_of(p));
          agree(text_of(p), exact(), foldings, aligned_product_of(p));
        }
}

TEST_F(CudaBackendOps, LinearOfManyRowsWithoutTheLibrary) {
  for (const DType held : {DType::f32, DType::bf16, DType::f16})
    for (const std::int64_t rows : {9, 63, 64, 65, 130})
      for (const std::int64_t in : {3, 64, 100})
        for (const std::int64_t out : {1, 64, 130}) {
          const Product p{rows, in, out, held, in % 2 == 0, out % 2 == 0};
          agree(text_of(p), exact(), foldings, product_of(p));
        }
}

TEST_F(CudaBackendOps, LinearOfManyRowsInF32ByTheLibrary) {
  for (const std::int64_t rows : {9, 64, 200})
    for (const bool bias : {false, true})
      for (const bool add : {false, true}) {
        const Product p{rows, 256, 512, DType::f32, bias, add};
        agree(text_of(p), exact(), foldings, aligned_product_of(p));
      }
}

TEST_F(CudaBackendOps, LinearOfManyRowsIn16BitsByTheLibrary) {
  for (const DType held : {DType::bf16, DType::f16})
    for (const std::int64_t rows : {9, 64, 200})
      for (const bool bias : {false, true})
        for (const bool add : {false, true}) {
          const Product p{rows, 256, 515, held, bias, add};
          agree(text_of(p), fast(), foldings + (held == DType::bf16 ? bf16_inputs : f16_inputs), aligned_product_of(p));
        }
}

TEST_F(CudaBackendOps, LinearInF16TakesRowsPastItsRange) {
  agree("9 x 256 x 512 of 1e6", fast(), foldings + f16_inputs, [&](Operands& o) {
    const Tensor x = o.dense(Shape{9, 256}, 1e6), out = o.unwritten(9, 512);
    o.backend().run(
        Linear{.x = x, .weight = o.weight(512, 256, DType::f16, DType::f16), .bias = {}, .add = {}, .out = out});
    o.result(out);
  });
}

TEST_F(CudaBackendOps, LinearOfQuantisedWeights) {
  // held as f16: half a unit of each weight, beside the rounding of x where rows are many
  for (const DType held : {DType::q8_0, DType::q4_0, DType::q4_k, DType::q6_k})
    for (const std::int64_t rows : {1, 4, 40}) {
      const Product p{rows, 512, 160, held, false, true};
      agree(text_of(p), fast(), foldings + 2 * f16_inputs, [&](Operands& o) {
        Linear op{.x = o.dense(Shape{p.rows, p.in}),
                  .weight = o.weight(p.out, p.in, DType::f32, p.held),
                  .bias = {},
                  .add = o.dense(Shape{p.rows, p.out}),
                  .out = o.unwritten(p.rows, p.out)};
        o.backend().run(op);
        o.result(op.out);
      });
    }
}

TEST_F(CudaBackendOps, ARowsBitsDoNotDependOnTheOtherRowsWhereTheyAreFew) {
  for (const std::int64_t rows : {2, 3, 4, 7, 8})
    for (const std::int64_t in : {100, 768}) {
      auto product = [&](bool one_by_one) {
        return results_of(exact(), 5, [&](Operands& o) {
          const Tensor x = o.dense(Shape{rows, in}), y = o.unwritten(rows, 70);
          const PreparedWeight* weight = o.weight(70, in, DType::bf16, DType::bf16);
          const std::int64_t step = one_by_one ? 1 : rows;
          for (std::int64_t i = 0; i < rows; i += step)
            o.backend().run(
                Linear{.x = x.slice(0, i, step), .weight = weight, .bias = {}, .add = {}, .out = y.slice(0, i, step)});
          o.result(y);
        });
      };
      EXPECT_EQ(product(true), product(false)) << rows << " x " << in;
    }
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

const std::vector<std::vector<std::int64_t>> batches{{1}, {5}, {1, 1, 1}, {0, 3, 0, 20}, {63, 1, 65}, {129, 0, 2, 64}};

std::string text_of(const std::vector<std::int64_t>& lengths) {
  std::string text = "tokens";
  for (const std::int64_t length : lengths) text += fmt::format(" {}", length);
  return text;
}

TEST_F(CudaBackendOps, CausalConv) {
  for (const auto& lengths : batches)
    for (const std::int64_t channels : {1, 17, 40, 256})
      for (const std::int64_t kernel : {1, 2, 4, 5})
        for (const Activation act : {Activation::none, Activation::silu})
          agree(
              fmt::format("{} channels {} kernel {} {}", text_of(lengths), channels, kernel, name(act)), exact(),
              functions, [&](Operands& o) {
                const Batch batch = o.batch(lengths);
                const mamba2::CausalConv op{
                    .x = kernel == 4 ? o.dense(Shape{batch.tokens, channels}) : o.rows(batch.tokens, channels),
                    .weight = o.dense(Shape{channels, kernel}),
                    .bias = channels == 40 ? Tensor() : o.dense(Shape{channels}),
                    .act = act,
                    .batch = batch,
                    .conv_state = o.dense(Shape{batch.sequences + 1, channels, kernel - 1}),
                    .out = kernel == 4 ? o.dense(Shape{batch.tokens, channels}) : o.unwritten(batch.tokens, channels)};
                o.backend().run(op);
                o.result(op.out);
                o.result(op.conv_state);
              });
}

TEST_F(CudaBackendOps, TimeStep) {
  for (const std::int64_t heads : {1, 3, 24})
    for (const TimeStepLimit limit : {TimeStepLimit{}, TimeStepLimit{.min = 0.01, .max = 0.7}})
      agree(fmt::format("{} heads", heads), exact(), 4, [&](Operands& o) {
        const mamba2::TimeStep op{.dt_raw = o.rows(9, heads, 20.0),
                                  .dt_bias = o.dense(Shape{heads}),
                                  .limit = limit,
                                  .out = o.unwritten(9, heads)};
        o.backend().run(op);
        o.result(op.out);
      });
}

struct ScanShape {
  std::int64_t groups, heads_a_group, head_dim, state_size;
  bool D_for_each_element;
};

const ScanShape scan_shapes[] = {{1, 1, 1, 1, false},    {1, 2, 3, 5, true},     {2, 1, 17, 16, false},
                                 {3, 2, 8, 31, true},    {1, 3, 64, 128, false}, {2, 2, 64, 64, true},
                                 {1, 1, 33, 300, false}, {1, 2, 64, 256, false}};

std::string text_of(const ScanShape& s) {
  return fmt::format("groups {} heads {} P{} N{}{}", s.groups, s.groups * s.heads_a_group, s.head_dim, s.state_size,
                     s.D_for_each_element ? " D of elements" : "");
}

TEST_F(CudaBackendOps, SsdScan) {
  for (const auto& lengths : batches)
    for (const ScanShape& s : scan_shapes)
      agree(text_of(lengths) + " " + text_of(s), exact(), chunking, [&](Operands& o) {
        const Batch batch = o.batch(lengths);
        const std::int64_t heads = s.groups * s.heads_a_group, tokens = batch.tokens;
        const Tensor raw = o.rows(tokens, heads), dt = o.unwritten(tokens, heads);
        o.backend().run(
            mamba2::TimeStep{.dt_raw = raw, .dt_bias = o.dense(Shape{heads}, 1.0, -2.0), .limit = {}, .out = dt});
        const mamba2::SsdScan op{.x = o.heads(tokens, heads, s.head_dim),
                                 .dt = dt,
                                 .A_log = o.dense(Shape{heads}),
                                 .B = o.heads(tokens, s.groups, s.state_size),
                                 .C = o.heads(tokens, s.groups, s.state_size),
                                 .D = o.dense(s.D_for_each_element ? Shape{heads, s.head_dim} : Shape{heads}),
                                 .batch = batch,
                                 .ssm_state = o.dense(Shape{batch.sequences + 1, heads, s.head_dim, s.state_size}),
                                 .out = o.unwritten_heads(tokens, heads, s.head_dim)};
        o.backend().run(op);
        o.result(op.out);
        o.result(op.ssm_state);
      });
}

struct MixerShape {
  ScanShape scan;
  std::int64_t mlp, kernel;
  GateOrder order;
  bool weighted;
};

Body mixer_of(const MixerShape& m, const std::vector<std::int64_t>& lengths) {
  return [m, lengths](Operands& o) {
    const ScanShape& s = m.scan;
    const Batch batch = o.batch(lengths);
    const std::int64_t heads = s.groups * s.heads_a_group, inner = heads * s.head_dim;
    const std::int64_t conv_dim = inner + 2 * s.groups * s.state_size, tokens = batch.tokens;
    Mixer op{.projected = o.dense(Shape{tokens, 2 * m.mlp + inner + conv_dim + heads}),
             .conv_weight = o.dense(Shape{conv_dim, m.kernel}, 0.5),
             .conv_bias = o.dense(Shape{conv_dim}),
             .act = Activation::silu,
             .dt_bias = o.dense(Shape{heads}, 1.0, -2.0),
             .A_log = o.dense(Shape{heads}),
             .D = o.dense(s.D_for_each_element ? Shape{heads, s.head_dim} : Shape{heads}),
             .limit = {},
             .n_groups = s.groups,
             .norm_weight = {},
             .norm_group_size = inner / s.groups,
             .order = m.order,
             .batch = batch,
             .conv_state = o.dense(Shape{batch.sequences + 1, conv_dim, m.kernel - 1}),
             .ssm_state = o.dense(Shape{batch.sequences + 1, heads, s.head_dim, s.state_size}),
             .xBC = o.unwritten(tokens, conv_dim),
             .dt = o.unwritten(tokens, heads),
             .y = o.unwritten(tokens, inner),
             .out = o.unwritten(tokens, m.mlp + inner)};
    if (m.weighted) op.norm_weight = o.dense(Shape{inner});
    o.backend().run(op);
    o.result(op.out);
    o.result(op.ssm_state);
    o.result(op.conv_state);
  };
}

std::string text_of(const MixerShape& m, const std::vector<std::int64_t>& lengths) {
  return fmt::format("{} {} mlp {} kernel {}{}{}", text_of(lengths), text_of(m.scan), m.mlp, m.kernel,
                     m.order == GateOrder::norm_first ? " norm first" : "", m.weighted ? " weighted" : "");
}

TEST_F(CudaBackendOps, MixerOfPrompts) {
  for (const auto& lengths : {batches[1], batches[3], batches[5]})
    for (const ScanShape& s : scan_shapes)
      for (const std::int64_t mlp : {0, 5}) {
        const MixerShape m{s, mlp, 4, mlp == 0 ? GateOrder::gate_first : GateOrder::norm_first, s.state_size != 5};
        agree(text_of(m, lengths), exact(), functions + chunking, mixer_of(m, lengths));
      }
}

TEST_F(CudaBackendOps, MixerOfOneTokenEach) {
  for (const auto& lengths : {batches[0], batches[2]})
    for (const ScanShape& s : scan_shapes)
      for (const std::int64_t mlp : {0, 5})
        for (const GateOrder order : {GateOrder::gate_first, GateOrder::norm_first})
          for (const std::int64_t kernel : {2, 4, 5})
            for (const bool weighted : {false, true}) {
              const MixerShape m{s, mlp, kernel, order, weighted};
              agree(text_of(m, lengths), exact(), functions + chunking, mixer_of(m, lengths));
            }
}

TEST_F(CudaBackendOps, MixerOfRoundedPrompts) {
  // x, B, C, the weights of the chunks' products, the state they meet and y: six roundings to bf16, which the norm by
  // groups may double
  constexpr double roundings = 12 * bf16_inputs;
  for (const std::vector<std::int64_t>& lengths : {std::vector<std::int64_t>{64}, {200}, {129, 0, 2, 64}, {1000}})
    for (const ScanShape& s : {scan_shapes[4], scan_shapes[5]})
      for (const GateOrder order : {GateOrder::gate_first, GateOrder::norm_first}) {
        const MixerShape m{s, order == GateOrder::gate_first ? 0 : 8, 4, order, true};
        agree(text_of(m, lengths), fast(), roundings, mixer_of(m, lengths));
      }
}

TEST_F(CudaBackendOps, Rope) {
  for (const auto& lengths : {batches[1], batches[3]})
    for (const std::int64_t rotary_dim : {0, 4, 20})
      for (const RopeScaling scaling : {RopeScaling::none, RopeScaling::linear, RopeScaling::dynamic})
        for (const std::int64_t before : {0, 100'000})
          agree(fmt::format("{} rotary_dim {} scaling {} before {}", text_of(lengths), rotary_dim,
                            static_cast<int>(scaling), before),
                exact(), 4, [&](Operands& o) {
                  RopeParameters parameters;
                  parameters.rotary_dim = rotary_dim;
                  parameters.scaling = scaling;
                  parameters.factor = 2.0;
                  parameters.max_position_embeddings = 50;
                  const Batch batch = o.batch(lengths, before);
                  const Tensor x = o.heads(batch.tokens, 3, 20);
                  o.backend().run(mamba2::Rope{.x = x, .batch = batch, .parameters = parameters});
                  o.result(x);
                });
}

struct Attended {
  std::vector<std::int64_t> lengths;
  std::int64_t head_dim, before;
  double scale;
};

/// Every head_dim with few tokens; long prompts and long caches, whose reference takes its time, with a few.
std::vector<Attended> attended_shapes() {
  std::vector<Attended> shapes;
  for (std::size_t i = 0; i < 4; ++i)
    for (const std::int64_t head_dim : {1, 20, 64, 100, 256, 300}) {
      shapes.push_back({batches[i], head_dim, 0, 1.0});
      shapes.push_back({batches[i], head_dim, 62, 0.1});
    }
  for (std::size_t i = 4; i < batches.size(); ++i)
    for (const std::int64_t head_dim : {20, 64}) shapes.push_back({batches[i], head_dim, 62, 1.0});
  for (const std::int64_t head_dim : {64, 256}) shapes.push_back({{1, 1}, head_dim, 500, 0.1});
  return shapes;
}

TEST_F(CudaBackendOps, Attention) {
  for (const Attended& s : attended_shapes())
    agree(fmt::format("{} head_dim {} before {} scale {}", text_of(s.lengths), s.head_dim, s.before, s.scale), exact(),
          functions * (1 + s.scale), [&](Operands& o) {
            const Batch batch = o.batch(s.lengths, s.before);
            const std::int64_t kv_heads = 2, heads = 6;
            const Shape cache{batch.sequences + 1, s.before + batch.longest + 1, kv_heads, s.head_dim};
            const mamba2::Attention op{.q = o.heads(batch.tokens, heads, s.head_dim),
                                       .k = o.heads(batch.tokens, kv_heads, s.head_dim),
                                       .v = o.heads(batch.tokens, kv_heads, s.head_dim),
                                       .scale = s.scale,
                                       .batch = batch,
                                       .k_cache = o.dense(cache),
                                       .v_cache = o.dense(cache),
                                       .out = o.unwritten_heads(batch.tokens, heads, s.head_dim)};
            o.backend().run(op);
            o.result(op.out);
            o.result(op.k_cache);
            o.result(op.v_cache);
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
