// The mixer and its parts on the CUDA backend.
#include "tests/cpu/scan_operands.h"
#include "tests/cuda/backend_support.h"

namespace mamba2::test {
namespace {

using test::text_of;

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

const ScanShape scan_shapes[] = {{1, 1, 1, 1, false},    {1, 2, 3, 5, true},     {2, 1, 17, 16, false},
                                 {3, 2, 8, 31, true},    {1, 3, 64, 128, false}, {2, 2, 64, 64, true},
                                 {1, 1, 33, 300, false}, {1, 2, 64, 256, false}};

TEST_F(CudaBackendOps, SsdScan) {
  for (const auto& lengths : batches)
    for (const ScanShape& s : scan_shapes)
      agree(text_of(lengths) + " " + text_of(s), exact(), chunking,
            [&](Operands& o) { scan_results(o, scan_of(o, s, o.batch(lengths))); });
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
    const std::int64_t heads = s.heads(), inner = heads * s.head_dim;
    const std::int64_t conv_dim = inner + 2 * s.groups * s.state_size, tokens = batch.tokens;
    // with gaps between rows, but where the scan on tensor cores needs them aligned
    auto work_space = [&](std::int64_t width) {
      return width % 4 == 0 ? o.dense(Shape{tokens, width}) : o.unwritten(tokens, width);
    };
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
             .xBC = work_space(conv_dim),
             .dt = o.unwritten(tokens, heads),
             .y = work_space(inner),
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

}  // namespace
}  // namespace mamba2::test
