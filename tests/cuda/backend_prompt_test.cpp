// Mixer layers of prompts with rows of 16 bits between their kernels, against the reference in double and a plain
// evaluation that rounds the same rows.
#include <functional>

#include "mamba2/cuda/run_prompt.h"
#include "mamba2/tensor/columns.h"
#include "tests/cuda/backend_support.h"

namespace mamba2::test {
namespace {

struct PromptShape {
  std::int64_t hidden_size, groups, heads_per_group, state_size, conv_kernel, norm_groups;
  GateOrder order;
  bool D_for_each_element, bias;
  std::int64_t heads() const { return groups * heads_per_group; }
  std::int64_t inner() const { return heads() * 64; }
  std::int64_t conv_dim() const { return inner() + 2 * groups * state_size; }
  std::int64_t projected_size() const { return inner() + conv_dim() + heads(); }
};

constexpr PromptShape shapes[] = {{256, 1, 8, 128, 4, 1, GateOrder::gate_first, false, false},
                                  {320, 1, 5, 64, 4, 1, GateOrder::gate_first, false, true},
                                  {256, 2, 3, 64, 3, 2, GateOrder::norm_first, true, false},
                                  {512, 4, 1, 128, 2, 4, GateOrder::gate_first, true, true}};

using Layers = std::vector<MixerLayer>;
using Run = std::function<void(Backend&, const Layers&)>;

/// Two layers, one after the other; results are the residual stream and the states.
Body layers_of(const PromptShape& s, const std::vector<std::int64_t>& lengths, const Run& run) {
  return [s, lengths, run](Operands& o) {
    const Batch batch = o.batch(lengths);
    const std::int64_t tokens = batch.tokens, slots = batch.sequences + 1;
    const Tensor hidden = o.dense(Shape{tokens, s.hidden_size}), normed = o.dense(Shape{tokens, s.hidden_size}),
                 projected = o.dense(Shape{tokens, s.projected_size()}), mixed = o.dense(Shape{tokens, s.inner()});
    const Shape D = s.D_for_each_element ? Shape{s.heads(), 64} : Shape{s.heads()};
    Layers layers;
    for (std::int64_t i = 0; i < 2; ++i) {
      // norms that keep products near one
      const Tensor small = o.dense(Shape{s.hidden_size}, 0.3 / std::sqrt(static_cast<double>(s.hidden_size)),
                                   1 / std::sqrt(static_cast<double>(s.hidden_size)));
      layers.push_back({.norm = {.x = hidden, .weight = small, .eps = 1e-5, .out = normed},
                        .in_proj = {.x = normed,
                                    .weight = o.weight(s.projected_size(), s.hidden_size, DType::f32, DType::bf16),
                                    .bias = {},
                                    .add = {},
                                    .out = projected},
                        .mixer = {.projected = projected,
                                  .conv_weight = o.dense(Shape{s.conv_dim(), s.conv_kernel}, 0.5),
                                  .conv_bias = o.dense(Shape{s.conv_dim()}),
                                  .act = Activation::silu,
                                  .dt_bias = o.dense(Shape{s.heads()}, 1.0, -2.0),
                                  .A_log = o.dense(Shape{s.heads()}),
                                  .D = o.dense(D),
                                  .limit = {},
                                  .n_groups = s.groups,
                                  .norm_weight = o.dense(Shape{s.inner()}, 0.02, 0.05),
                                  .norm_group_size = s.inner() / s.norm_groups,
                                  .order = s.order,
                                  .batch = batch,
                                  .conv_state = o.dense(Shape{slots, s.conv_dim(), s.conv_kernel - 1}),
                                  .ssm_state = o.dense(Shape{slots, s.heads(), 64, s.state_size}),
                                  .layer = i,
                                  .xBC = o.dense(Shape{tokens, s.conv_dim()}),
                                  .dt = o.dense(Shape{tokens, s.heads()}),
                                  .y = o.dense(Shape{tokens, s.inner()}),
                                  .out = mixed},
                        .out_proj = {.x = mixed,
                                     .weight = o.weight(s.hidden_size, s.inner(), DType::f32, DType::bf16),
                                     .bias = s.bias ? o.dense(Shape{s.hidden_size}) : Tensor(),
                                     .add = hidden,
                                     .out = hidden}});
    }
    run(o.backend(), layers);
    o.result(hidden);
    for (const MixerLayer& layer : layers) {
      o.result(layer.mixer.conv_state);
      o.result(layer.mixer.ssm_state);
    }
  };
}

void as_one_op(Backend& backend, const Layers& layers) {
  backend.run(MixerLayers{layers});
}

/// Rows of a backend on the host, rounded where they lie.
void round_rows(const Tensor& rows) {
  const HostTensor rounded(DType::bf16, rows.shape);
  convert(rows, rounded);
  convert(rounded, rows);
}

/// A layer by its formulas with every row between two of them in bf16, dt alone excepted.
void plainly_in_bf16(Backend& backend, const Layers& layers) {
  for (const MixerLayer& layer : layers) {
    const Mixer& m = layer.mixer;
    const std::int64_t heads = m.ssm_state.size(1), inner = heads * 64, groups_width = m.n_groups * m.ssm_state.size(3);
    const std::int64_t conv_dim = inner + 2 * groups_width;
    backend.run(layer.norm);
    round_rows(layer.norm.out);
    backend.run(layer.in_proj);
    const Tensor z = m.projected.slice(1, 0, inner), xBC = m.projected.slice(1, inner, conv_dim);
    round_rows(z);
    round_rows(xBC);
    backend.run(CausalConv{.x = xBC,
                           .weight = m.conv_weight,
                           .bias = m.conv_bias,
                           .act = m.act,
                           .batch = m.batch,
                           .conv_state = m.conv_state,
                           .out = m.xBC});
    round_rows(m.xBC);
    backend.run(TimeStep{
        .dt_raw = m.projected.slice(1, inner + conv_dim, heads), .dt_bias = m.dt_bias, .limit = m.limit, .out = m.dt});
    const Tensor B = m.xBC.slice(1, inner, groups_width), C = m.xBC.slice(1, inner + groups_width, groups_width);
    backend.run(SsdScan{.x = split_columns(m.xBC.slice(1, 0, inner), heads, 64),
                        .dt = m.dt,
                        .A_log = m.A_log,
                        .B = split_columns(B, m.n_groups, m.ssm_state.size(3)),
                        .C = split_columns(C, m.n_groups, m.ssm_state.size(3)),
                        .D = m.D,
                        .batch = m.batch,
                        .ssm_state = m.ssm_state,
                        .out = split_columns(m.y, heads, 64)});
    round_rows(m.y);
    backend.run(GatedRmsNorm{.y = m.y,
                             .z = z,
                             .weight = m.norm_weight,
                             .group_size = m.norm_group_size,
                             .eps = m.norm_eps,
                             .order = m.order,
                             .out = m.out});
    round_rows(m.out);
    backend.run(layer.out_proj);
  }
}

void expect_as_exact_as_a_plain_evaluation(const std::vector<std::int64_t>& lengths, const PromptShape& s) {
  // Six rows are rounded: normed, z, x B C before and after the convolution, y, the gated norm's result.  The scan
  // rounds the weights of a chunk's products, the state that they meet and x times its weights besides.
  constexpr double roundings = 9.0 / 6;
  const auto seed = static_cast<std::uint64_t>(500 + lengths[0] + s.heads());
  const std::vector<double> want = results_of(truth(), seed, layers_of(s, lengths, as_one_op));
  const double plain_error =
      largest_difference(results_of(plain(), seed, layers_of(s, lengths, plainly_in_bf16)), want);
  const double error = largest_difference(results_of(fast(), seed, layers_of(s, lengths, as_one_op)), want);
  EXPECT_LE(error, 2 * roundings * plain_error) << text_of(lengths) << " hidden " << s.hidden_size;
}

TEST_F(CudaBackendOps, MixerLayersOfPromptsAreAsExactAsAPlainEvaluationThatRoundsTheirRows) {
  for (const std::vector<std::int64_t>& lengths : {std::vector<std::int64_t>{64}, {200}, {129, 0, 2, 64}, {450}})
    for (const PromptShape& s : shapes) expect_as_exact_as_a_plain_evaluation(lengths, s);
}

TEST_F(CudaBackendOps, MixerLayersOfLongPromptsAreAsExactWithTheirProjectionsInBf16) {
  for (const PromptShape& s : {shapes[1], shapes[3]})
    expect_as_exact_as_a_plain_evaluation({cuda::least_halved_tokens - 70, 71}, s);
}

TEST_F(CudaBackendOps, MixerLayersOfPromptsThatComeAgainHaveTheSameBits) {
  const PromptShape& s = shapes[0];
  // launched, recorded, replayed: from the same input and states each time
  auto thrice = [](Backend& backend, const Layers& layers) {
    std::vector<DeviceTensor> kept;
    std::vector<Tensor> places{layers[0].norm.x};
    for (const MixerLayer& layer : layers) {
      places.push_back(layer.mixer.conv_state);
      places.push_back(layer.mixer.ssm_state);
    }
    for (const Tensor& place : places) {
      kept.push_back(backend.allocate(place.dtype, place.shape));
      backend.copy(place, kept.back());
    }
    for (int i = 0; i < 3; ++i) {
      for (std::size_t p = 0; p < places.size(); ++p) backend.copy(kept[p], places[p]);
      backend.run(MixerLayers{layers});
    }
  };
  for (const std::int64_t longest : {std::int64_t{300}, cuda::least_halved_tokens}) {
    const std::vector<std::int64_t> lengths{100, 7, longest};
    EXPECT_EQ(results_of(fast(), 3, layers_of(s, lengths, thrice)),
              results_of(fast(), 3, layers_of(s, lengths, as_one_op)));
  }
}

TEST_F(CudaBackendOps, MixerLayersOfPromptsRoundNothingWhereTheyMayNot) {
  auto by_parts = [](Backend& backend, const Layers& layers) {
    for (const MixerLayer& layer : layers) {
      backend.run(layer.norm);
      backend.run(layer.in_proj);
      backend.run(layer.mixer);
      backend.run(layer.out_proj);
    }
  };
  EXPECT_EQ(results_of(exact(), 4, layers_of(shapes[0], {200}, as_one_op)),
            results_of(exact(), 4, layers_of(shapes[0], {200}, by_parts)));
}

}  // namespace
}  // namespace mamba2::test
