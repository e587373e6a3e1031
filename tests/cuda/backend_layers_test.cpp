// Mixer layers as one op: which of them one kernel takes, which needs no GPU, and that its results are those of the
// parts.
#include <functional>

#include "mamba2/cuda/run_layers.h"
#include "tests/cuda/backend_support.h"

namespace mamba2::test {
namespace {

class HostWeight : public PreparedWeight {
 public:
  HostWeight(const Shape& extents, DType held) : PreparedWeight(extents, held), matrix(held, extents) {}
  std::size_t bytes() const override { return 0; }
  HostTensor matrix;
};

const Tensor& matrix_of(const PreparedWeight& weight) {
  return static_cast<const HostWeight&>(weight).matrix.view();
}

constexpr std::int64_t hidden_size = 128, heads = 4, head_dim = 64, state_size = 64, slots = 3;
constexpr std::int64_t inner = heads * head_dim, conv_dim = inner + 2 * state_size,
                       projected_size = inner + conv_dim + heads;

/// Two layers that one kernel takes, and what they lie in.
class TakenLayers {
 public:
  explicit TakenLayers(std::int64_t rows = 2) {
    const Tensor hidden = make(DType::f32, {rows, hidden_size}), normed = make(DType::f32, {rows, hidden_size}),
                 projected = make(DType::f32, {rows, projected_size}), mixed = make(DType::f32, {rows, inner});
    const Batch batch{.tokens = rows,
                      .sequences = rows,
                      .longest = 1,
                      .sequence_start = make(DType::i32, {rows + 1}),
                      .slots = make(DType::i32, {rows}),
                      .positions = make(DType::i32, {rows})};
    for (std::int64_t i = 0; i < 2; ++i)
      layers.push_back({.norm = {.x = hidden, .weight = make(DType::f32, {hidden_size}), .eps = 1e-5, .out = normed},
                        .in_proj = {.x = normed,
                                    .weight = weight({projected_size, hidden_size}, DType::bf16),
                                    .bias = {},
                                    .add = {},
                                    .out = projected},
                        .mixer = {.projected = projected,
                                  .conv_weight = make(DType::f32, {conv_dim, 4}),
                                  .conv_bias = make(DType::f32, {conv_dim}),
                                  .act = Activation::silu,
                                  .dt_bias = make(DType::f32, {heads}),
                                  .A_log = make(DType::f32, {heads}),
                                  .D = make(DType::f32, {heads}),
                                  .limit = {},
                                  .n_groups = 1,
                                  .norm_weight = make(DType::f32, {inner}),
                                  .norm_group_size = inner,
                                  .batch = batch,
                                  .conv_state = make(DType::f32, {slots, conv_dim, 3}),
                                  .ssm_state = make(DType::f32, {slots, heads, head_dim, state_size}),
                                  .layer = i,
                                  .xBC = make(DType::f32, {rows, conv_dim}),
                                  .dt = make(DType::f32, {rows, heads}),
                                  .y = make(DType::f32, {rows, inner}),
                                  .out = mixed},
                        .out_proj = {.x = mixed,
                                     .weight = weight({hidden_size, inner}, DType::bf16),
                                     .bias = {},
                                     .add = hidden,
                                     .out = hidden}});
  }

  Tensor make(DType dtype, const Shape& shape) { return tensors_.emplace_back(dtype, shape).view(); }
  const PreparedWeight* weight(const Shape& shape, DType dtype) {
    return weights_.emplace_back(std::make_unique<HostWeight>(shape, dtype)).get();
  }
  bool taken() const {
    const auto described = std::make_unique<cuda::DecodeLayers>();
    return cuda::describe_layers(MixerLayers{layers}, matrix_of, *described);
  }

  std::vector<MixerLayer> layers;

 private:
  std::vector<HostTensor> tensors_;
  std::vector<std::unique_ptr<HostWeight>> weights_;
};

TEST(DescribeLayers, TellsSizesNumbersAndPlaces) {
  TakenLayers taken(3);
  for (MixerLayer& layer : taken.layers) {
    layer.mixer.layer += 5;
    layer.mixer.limit = {.min = 0.25, .max = 0.5};
    layer.mixer.norm_eps = 0.125;
  }
  const auto found = std::make_unique<cuda::DecodeLayers>();
  ASSERT_TRUE(cuda::describe_layers(MixerLayers{taken.layers}, matrix_of, *found));
  EXPECT_EQ(found->shape, (cuda::DecodeShape{hidden_size, heads, state_size, 2, 3, 4}));
  EXPECT_EQ(found->first_layer, 5U);
  EXPECT_EQ(found->dt_min, 0.25F);
  EXPECT_EQ(found->dt_max, 0.5F);
  EXPECT_EQ(found->gated_norm_eps, 0.125F);
  EXPECT_EQ(found->positions, nullptr);
  EXPECT_EQ(found->hidden.data, taken.layers[0].norm.x.data);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(found->layer[i].in_proj, matrix_of(*taken.layers[i].in_proj.weight).data);
    EXPECT_EQ(found->layer[i].out_proj, matrix_of(*taken.layers[i].out_proj.weight).data);
    EXPECT_EQ(found->layer[i].ssm_state, taken.layers[i].mixer.ssm_state.data);
    EXPECT_EQ(found->layer[i].gated_norm_weight, taken.layers[i].mixer.norm_weight.data);
  }
}

TEST(DescribeLayers, TellsPositionsWhereAStateIsRoundedByChance) {
  TakenLayers taken;
  for (MixerLayer& layer : taken.layers) {
    layer.mixer.rounding = StateRounding::stochastic;
    layer.mixer.ssm_state = taken.make(DType::bf16, {slots, heads, head_dim, state_size});
  }
  const auto found = std::make_unique<cuda::DecodeLayers>();
  ASSERT_TRUE(cuda::describe_layers(MixerLayers{taken.layers}, matrix_of, *found));
  EXPECT_EQ(found->positions, taken.layers[0].mixer.batch.positions.data);
  EXPECT_EQ(found->shape.state_element, 2);
}

TEST(DescribeLayers, RefusesWhatOneKernelDoesNotDo) {
  EXPECT_TRUE(TakenLayers(1).taken());
  EXPECT_FALSE(TakenLayers(cuda::decode_most_rows + 1).taken());
  auto expect_refused = [](const char* what, const std::function<void(TakenLayers&, MixerLayer&)>& change) {
    for (const std::size_t which : {std::size_t{0}, std::size_t{1}}) {
      TakenLayers layers;
      change(layers, layers.layers[which]);
      EXPECT_FALSE(layers.taken()) << what << " of layer " << which;
    }
  };
  using L = MixerLayer;
  expect_refused("a prompt", [](TakenLayers&, L& l) { l.mixer.batch.longest = 2; });
  expect_refused("f32 weights", [](TakenLayers& t, L& l) {
    l.in_proj.weight = t.weight({projected_size, hidden_size}, DType::f32);
  });
  expect_refused("f16 weights", [](TakenLayers& t, L& l) {
    l.out_proj.weight = t.weight({hidden_size, inner}, DType::f16);
  });
  expect_refused("a bias of in_proj",
                 [](TakenLayers& t, L& l) { l.in_proj.bias = t.make(DType::f32, {projected_size}); });
  expect_refused("a bias of out_proj",
                 [](TakenLayers& t, L& l) { l.out_proj.bias = t.make(DType::f32, {hidden_size}); });
  expect_refused("the norm first", [](TakenLayers&, L& l) { l.mixer.order = GateOrder::norm_first; });
  expect_refused("no gated norm", [](TakenLayers&, L& l) { l.mixer.norm_weight = {}; });
  expect_refused("a norm of groups", [](TakenLayers&, L& l) { l.mixer.norm_group_size = inner / 2; });
  expect_refused("groups", [](TakenLayers&, L& l) { l.mixer.n_groups = 2; });
  expect_refused("gelu", [](TakenLayers&, L& l) { l.mixer.act = Activation::gelu; });
  expect_refused("D of each channel", [](TakenLayers& t, L& l) { l.mixer.D = t.make(DType::f32, {heads, head_dim}); });
  expect_refused("three taps", [](TakenLayers& t, L& l) { l.mixer.conv_weight = t.make(DType::f32, {conv_dim, 3}); });
  expect_refused("other heads", [](TakenLayers& t, L& l) {
    l.mixer.ssm_state = t.make(DType::f32, {slots, 2 * heads, head_dim / 2, state_size});
  });
  expect_refused("a state in f16", [](TakenLayers& t, L& l) {
    l.mixer.ssm_state = t.make(DType::f16, {slots, heads, head_dim, state_size});
  });
  expect_refused("a gated MLP", [](TakenLayers& t, L& l) { l.mixer.out = t.make(DType::f32, {2, inner + 8}); });
  expect_refused("a residual from elsewhere", [](TakenLayers& t, L& l) {
    l.out_proj.add = t.make(DType::f32, {2, hidden_size});
  });
  expect_refused("a product of something else", [](TakenLayers& t, L& l) {
    l.in_proj.x = t.make(DType::f32, {2, hidden_size});
  });
  expect_refused("another limit", [](TakenLayers&, L& l) { l.mixer.limit.max = 7; });
  expect_refused("another number", [](TakenLayers&, L& l) { l.mixer.layer = 9; });
  expect_refused("other slots", [](TakenLayers& t, L& l) { l.mixer.batch.slots = t.make(DType::i32, {2}); });
}

TEST(DescribeLayers, RefusesNoLayersAndMoreThanTheKernelHasRoomFor) {
  TakenLayers layers;
  const MixerLayer last = layers.layers.back();
  while (std::ssize(layers.layers) < cuda::decode_most_layers) {
    layers.layers.push_back(last);
    layers.layers.back().mixer.layer = std::ssize(layers.layers) - 1;
  }
  EXPECT_TRUE(layers.taken());
  layers.layers.push_back(last);
  layers.layers.back().mixer.layer = cuda::decode_most_layers;
  EXPECT_FALSE(layers.taken());
  layers.layers.clear();
  EXPECT_FALSE(layers.taken());
}

TEST(DecodeLayersPays, GoesByWhatWasMeasured) {
  auto pays = [](int hidden, int rows) {
    cuda::DecodeShape shape;
    shape.hidden = hidden;
    shape.rows = rows;
    return cuda::decode_layers_pays(shape);
  };
  EXPECT_TRUE(pays(768, 1) && pays(768, 4) && pays(1024, 1) && pays(1024, 2));
  EXPECT_FALSE(pays(768, 5) || pays(1024, 3) || pays(2560, 1));
}

/// Three steps of three layers on a backend, so that the last is replayed.
std::vector<double> three_steps(std::int64_t rows, const std::function<void(Backend&, const MixerLayers&)>& run) {
  return results_of(exact(), 7, [&](Operands& o) {
    const Batch batch = o.batch(std::vector<std::int64_t>(static_cast<std::size_t>(rows), 1));
    const Tensor hidden = o.dense(Shape{rows, hidden_size}), normed = o.dense(Shape{rows, hidden_size}),
                 projected = o.dense(Shape{rows, projected_size}), mixed = o.dense(Shape{rows, inner});
    std::vector<MixerLayer> layers;
    for (std::int64_t i = 0; i < 3; ++i)
      layers.push_back({.norm = {.x = hidden, .weight = o.dense(Shape{hidden_size}), .eps = 1e-5, .out = normed},
                        .in_proj = {.x = normed,
                                    .weight = o.weight(projected_size, hidden_size, DType::f32, DType::bf16),
                                    .bias = {},
                                    .add = {},
                                    .out = projected},
                        .mixer = {.projected = projected,
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
                                  .conv_state = o.dense(Shape{rows + 1, conv_dim, 3}),
                                  .ssm_state = o.dense(Shape{rows + 1, heads, head_dim, state_size}),
                                  .layer = i,
                                  .xBC = o.dense(Shape{rows, conv_dim}),
                                  .dt = o.dense(Shape{rows, heads}),
                                  .y = o.dense(Shape{rows, inner}),
                                  .out = mixed},
                        .out_proj = {.x = mixed,
                                     .weight = o.weight(hidden_size, inner, DType::f32, DType::bf16),
                                     .bias = {},
                                     .add = hidden,
                                     .out = hidden}});
    for (int step = 0; step < 3; ++step) {
      run(o.backend(), MixerLayers{layers});
      o.backend().zero(normed);  // a step ends: what was asked for so far is on its way
    }
    o.result(hidden);
    for (const MixerLayer& layer : layers) {
      o.result(layer.mixer.conv_state);
      o.result(layer.mixer.ssm_state);
    }
  });
}

TEST_F(CudaBackendOps, MixerLayersAsOneOpHaveTheBitsOfTheirParts) {
  for (const std::int64_t rows : {1, 2, 4, 8}) {
    const std::vector<double> by_parts = three_steps(rows, [](Backend& backend, const MixerLayers& op) {
      for (const MixerLayer& layer : op.layers) {
        backend.run(layer.norm);
        backend.run(layer.in_proj);
        backend.run(layer.mixer);
        backend.run(layer.out_proj);
      }
    });
    const std::vector<double> as_one =
        three_steps(rows, [](Backend& backend, const MixerLayers& op) { backend.run(op); });
    EXPECT_EQ(as_one, by_parts) << rows << " rows";
  }
}

}  // namespace
}  // namespace mamba2::test
