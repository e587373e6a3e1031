#include <cmath>

#include "tests/cpu/scan_shape.h"

namespace mamba2::test {
namespace {

class MixerOnEveryIsa : public EveryIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, MixerOnEveryIsa, testing::ValuesIn(cpu::available_isas()), isa_name);

constexpr double functions = 16;
// A state's decay over a chunk is one exponential of a sum where the plain evaluation multiplies exponentials, and the
// sums over tokens are folded in another order.
constexpr double chunking = 32;

TEST_P(MixerOnEveryIsa, CausalConvAgreesWithTheReferenceInDouble) {
  for_random_cases([&] {
    const std::vector<std::int64_t> lengths = any_lengths();
    const std::int64_t channels = any_of({1, 3, 8, 17, 40, 300}), kernel = from_to(1, 5);
    const auto act = *rc::gen::element(Activation::none, Activation::silu, Activation::gelu_tanh);
    const auto with_bias = *rc::gen::arbitrary<bool>();
    expect_agreement(backend(), any_seed(), functions, [&](Operands& o) {
      const Batch batch = o.batch(lengths);
      CausalConv op{.x = o.rows(batch.tokens, channels),
                    .weight = o.dense(Shape{channels, kernel}),
                    .bias = {},
                    .act = act,
                    .batch = batch,
                    .conv_state = o.dense(Shape{batch.sequences + 1, channels, kernel - 1}),
                    .out = {}};
      if (with_bias) op.bias = o.dense(Shape{channels});
      op.out = o.unwritten(batch.tokens, channels);
      o.backend().run(op);
      o.result(op.out);
      o.result(op.conv_state);
    });
  });
}

TEST_P(MixerOnEveryIsa, TimeStepAgreesWithTheReferenceInDouble) {
  for_random_cases([&] {
    const std::int64_t tokens = from_to(0, 9), heads = any_of({1, 3, 24});
    const TimeStepLimit limit = *rc::gen::arbitrary<bool>() ? TimeStepLimit{} : TimeStepLimit{.min = 0.01, .max = 0.7};
    expect_agreement(backend(), any_seed(), 4, [&](Operands& o) {
      const TimeStep op{.dt_raw = o.rows(tokens, heads, 20.0),
                        .dt_bias = o.dense(Shape{heads}),
                        .limit = limit,
                        .out = o.unwritten(tokens, heads)};
      o.backend().run(op);
      o.result(op.out);
    });
  });
}

TEST_P(MixerOnEveryIsa, SsdScanAgreesWithTheReferenceInDouble) {
  for_random_cases([&] {
    const std::vector<std::int64_t> lengths = any_lengths();
    const ScanShape shape = any_scan_shape();
    expect_agreement(backend(), any_seed(), chunking,
                     [&](Operands& o) { scan_results(o, scan_of(o, shape, o.batch(lengths))); });
  });
}

TEST_P(MixerOnEveryIsa, SsdScanGoesOnFromWindowToWindow) {
  const ScanShape shape{.groups = 1, .heads_a_group = 2, .head_dim = 4, .state_size = 8, .D_for_each_element = false};
  for (const std::int64_t tokens : {4095, 4096, 4097, 9000})
    expect_agreement(backend(), 5, chunking, [&](Operands& o) {
      scan_results(o, scan_of(o, shape, o.batch({tokens, 100})));
    });
}

TEST_P(MixerOnEveryIsa, SsdScanForgetsAtOnceWhereTheDecayUnderflows) {
  expect_agreement(backend(), 9, chunking, [&](Operands& o) {
    SsdScan op =
        scan_of(o, {.groups = 1, .heads_a_group = 1, .head_dim = 4, .state_size = 8, .D_for_each_element = false},
                o.batch({100}));
    op.A_log = o.dense(Shape{1}, 0.0, 8.0);  // A = -2981
    scan_results(o, op);
  });
}

TEST_P(MixerOnEveryIsa, ASequencesBitsDoNotDependOnItsNeighbours) {
  for_random_cases([&] {
    const ScanShape shape = any_scan_shape();
    const std::vector<std::int64_t> lengths = any_lengths();
    auto outputs = [&](bool together) {
      return results_of(backend(), 17, [&](Operands& o) {
        const Batch all = o.batch(lengths);
        const SsdScan op = scan_of(o, shape, all);
        o.result(op.out);
        o.result(op.ssm_state);
        if (together) return o.backend().run(op);
        std::int64_t first = 0;
        for (std::size_t s = 0; s < lengths.size(); ++s) {
          SsdScan one = op;
          one.batch = {.tokens = lengths[s],
                       .sequences = 1,
                       .longest = lengths[s],
                       .sequence_start = o.integers({0, static_cast<std::int32_t>(lengths[s])}),
                       .slots = all.slots.slice(0, static_cast<std::int64_t>(s), 1),
                       .positions = {}};
          for (Tensor* view : {&one.x, &one.dt, &one.B, &one.C, &one.out}) *view = view->slice(0, first, lengths[s]);
          o.backend().run(one);
          first += lengths[s];
        }
      });
    };
    EXPECT_EQ(outputs(true), outputs(false));
  });
}

TEST_P(MixerOnEveryIsa, ThreadsDoNotChangeBits) {
  const ScanShape shape{.groups = 2, .heads_a_group = 3, .head_dim = 64, .state_size = 32, .D_for_each_element = true};
  const Body body = [&](Operands& o) { scan_results(o, scan_of(o, shape, o.batch({200, 1, 70}))); };
  EXPECT_EQ(results_of(*make_cpu_backend(1, GetParam()), 23, body),
            results_of(*make_cpu_backend(5, GetParam()), 23, body));
}

}  // namespace
}  // namespace mamba2::test
