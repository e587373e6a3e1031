// The mixer as one op: against the reference, and the promises about equal bits, in every form of the state.
#include <algorithm>
#include <array>

#include "tests/cpu/scan_shape.h"

namespace mamba2::test {
namespace {

class FusedMixerOnEveryIsa : public EveryIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, FusedMixerOnEveryIsa, testing::ValuesIn(cpu::available_isas()), isa_name);

constexpr double functions = 16;
constexpr double chunking = 32;

struct MixerShape {
  ScanShape scan;
  std::int64_t mlp, conv_kernel;
  bool conv_bias, norm;
};

MixerShape any_mixer_shape() {
  return {.scan = any_scan_shape(),
          .mlp = any_of({0, 0, 5, 16}),
          .conv_kernel = any_of({4, 4, 1, 3}),
          .conv_bias = *rc::gen::arbitrary<bool>(),
          .norm = *rc::gen::arbitrary<bool>()};
}

struct StateKind {
  DType dtype;
  StateRounding rounding;
};
constexpr StateKind f32_state{DType::f32, StateRounding::nearest};
constexpr std::array<StateKind, 3> state_kinds{
    {f32_state, {DType::bf16, StateRounding::nearest}, {DType::bf16, StateRounding::stochastic}}};

Mixer mixer(Operands& o, const MixerShape& s, const Batch& batch, const StateKind& kind) {
  const std::int64_t heads = s.scan.heads(), inner = heads * s.scan.head_dim, tokens = batch.tokens;
  const std::int64_t conv_dim = inner + 2 * s.scan.groups * s.scan.state_size;
  Mixer op{.projected = o.rows(tokens, 2 * s.mlp + inner + conv_dim + heads),
           .conv_weight = o.dense(Shape{conv_dim, s.conv_kernel}, 0.5),
           .conv_bias = {},
           .act = Activation::silu,
           .dt_bias = o.dense(Shape{heads}, 1.0, -2.0),
           .A_log = o.dense(Shape{heads}),
           .D = o.dense(s.scan.D_for_each_element ? Shape{heads, s.scan.head_dim} : Shape{heads}),
           .limit = {},
           .n_groups = s.scan.groups,
           .norm_weight = {},
           .norm_group_size = inner / s.scan.groups,
           .batch = batch,
           .conv_state = o.dense(Shape{batch.sequences + 1, conv_dim, s.conv_kernel - 1}),
           .ssm_state = o.in_dtype(o.dense(Shape{batch.sequences + 1, heads, s.scan.head_dim, s.scan.state_size}),
                                   kind.dtype == DType::f32 ? o.backend().activation_dtype() : kind.dtype),
           .rounding = kind.rounding,
           .layer = 3,
           .xBC = o.unwritten(tokens, conv_dim),
           .dt = o.unwritten(tokens, heads),
           .y = o.unwritten(tokens, inner),
           .out = o.unwritten(tokens, s.mlp + inner)};
  if (s.conv_bias) op.conv_bias = o.dense(Shape{conv_dim});
  if (s.norm) op.norm_weight = o.dense(Shape{inner});
  o.result(op.out);
  o.result(op.conv_state);
  o.result(op.ssm_state);
  return op;
}

/// The op for some tokens of one of its sequences.
Mixer part(Operands& o, const Mixer& whole, std::int64_t sequence, std::int64_t first, std::int64_t count) {
  Mixer op = whole;
  op.batch = {.tokens = count,
              .sequences = 1,
              .longest = count,
              .sequence_start = o.integers({0, static_cast<std::int32_t>(count)}),
              .slots = whole.batch.slots.slice(0, sequence, 1),
              .positions = whole.batch.positions.slice(0, first, count)};
  for (Tensor* view : {&op.projected, &op.xBC, &op.dt, &op.y, &op.out}) *view = view->slice(0, first, count);
  return op;
}

std::vector<std::int64_t> short_lengths() {
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(from_to(1, 4)));
  for (std::int64_t& length : lengths) length = any_of({0, 1, 1, 1, 2, 3, 4, 11});
  return lengths;
}

TEST_P(FusedMixerOnEveryIsa, MixerAgreesWithTheReferenceInDouble) {
  for_random_cases([&] {
    const std::vector<std::int64_t> lengths = *rc::gen::arbitrary<bool>() ? short_lengths() : any_lengths();
    const MixerShape shape = any_mixer_shape();
    expect_agreement(backend(), any_seed(), functions + chunking,
                     [&](Operands& o) { o.backend().run(mixer(o, shape, o.batch(lengths), f32_state)); });
  });
}

TEST_P(FusedMixerOnEveryIsa, ASequencesBitsDoNotDependOnItsNeighbours) {
  for_random_cases([&] {
    const MixerShape shape = any_mixer_shape();
    const std::vector<std::int64_t> lengths = any_lengths();
    for (const StateKind& kind : state_kinds) {
      auto outputs = [&](bool together) {
        return results_of(backend(), 17, [&](Operands& o) {
          const Mixer op = mixer(o, shape, o.batch(lengths), kind);
          if (together) return o.backend().run(op);
          std::int64_t first = 0;
          for (std::size_t s = 0; s < lengths.size(); ++s) {
            o.backend().run(part(o, op, static_cast<std::int64_t>(s), first, lengths[s]));
            first += lengths[s];
          }
        });
      };
      EXPECT_EQ(outputs(true), outputs(false));
    }
  });
}

TEST_P(FusedMixerOnEveryIsa, AnySplitGivesEqualBitsWhereTheScanIsSequential) {
  const auto sequential = make_cpu_backend(3, GetParam(), cpu::ScanForm::sequential);
  for_random_cases([&] {
    const MixerShape shape = any_mixer_shape();
    const std::int64_t tokens = any_of({2, 5, 12, 30}), step = any_of({1, 2, 3, 11, 13});
    for (const StateKind& kind : state_kinds) {
      auto outputs = [&](std::int64_t at_a_time) {
        return results_of(*sequential, 19, [&](Operands& o) {
          const Mixer op = mixer(o, shape, o.batch({tokens}, 7), kind);
          for (std::int64_t first = 0; first < tokens; first += at_a_time)
            o.backend().run(part(o, op, 0, first, std::min(at_a_time, tokens - first)));
        });
      };
      EXPECT_EQ(outputs(tokens), outputs(step));
    }
  });
}

TEST_P(FusedMixerOnEveryIsa, ThreadsDoNotChangeBits) {
  const MixerShape shape{
      .scan = {.groups = 2, .heads_a_group = 3, .head_dim = 64, .state_size = 32, .D_for_each_element = true},
      .mlp = 8,
      .conv_kernel = 4,
      .conv_bias = true,
      .norm = true};
  for (const StateKind& kind : state_kinds)
    for (const std::vector<std::int64_t>& lengths : {std::vector<std::int64_t>{1, 2, 11, 1}, {200, 1, 70}}) {
      const Body body = [&](Operands& o) { o.backend().run(mixer(o, shape, o.batch(lengths), kind)); };
      EXPECT_EQ(results_of(*make_cpu_backend(1, GetParam()), 23, body),
                results_of(*make_cpu_backend(5, GetParam()), 23, body));
    }
}

}  // namespace
}  // namespace mamba2::test
