#include "mamba2/base/error.h"
#include "tests/cpu/properties.h"

namespace mamba2::test {
namespace {

constexpr double functions = 16;

class AttentionOnEveryIsa : public EveryIsa {};
INSTANTIATE_TEST_SUITE_P(Isa, AttentionOnEveryIsa, testing::ValuesIn(cpu::available_isas()), isa_name);

TEST_P(AttentionOnEveryIsa, AttentionAgreesWithTheReferenceInDouble) {
  for_random_cases([&] {
    const std::vector<std::int64_t> lengths = any_lengths();
    const std::int64_t kv_heads = from_to(1, 3), heads = kv_heads * from_to(1, 3);
    const std::int64_t head_dim = any_of({1, 3, 8, 16, 20}), before = any_of({0, 0, 1, 62, 63, 64, 70});
    const double spread = *rc::gen::element(0.1, 1.0, 10.0);
    expect_agreement(backend(), any_seed(), functions * (1 + spread), [&](Operands& o) {
      const Batch batch = o.batch(lengths, before);
      const Shape cache{batch.sequences + 1, before + batch.longest + 1, kv_heads, head_dim};
      const Attention op{.q = o.heads(batch.tokens, heads, head_dim),
                         .k = o.heads(batch.tokens, kv_heads, head_dim),
                         .v = o.heads(batch.tokens, kv_heads, head_dim),
                         .scale = spread,
                         .batch = batch,
                         .k_cache = o.dense(cache),
                         .v_cache = o.dense(cache),
                         .out = o.unwritten_heads(batch.tokens, heads, head_dim)};
      o.backend().run(op);
      o.result(op.out);
      o.result(op.k_cache);
      o.result(op.v_cache);
    });
  });
}

TEST_P(AttentionOnEveryIsa, AttentionRejectsAPositionPastTheCache) {
  Operands o(backend(), 0, Values::as_drawn);
  const Tensor q = o.heads(1, 1, 4), cache = o.dense(Shape{2, 3, 1, 4});
  EXPECT_THROW(o.backend().run(Attention{.q = q,
                                         .k = q,
                                         .v = q,
                                         .scale = 1.0,
                                         .batch = o.batch({1}, 3),
                                         .k_cache = cache,
                                         .v_cache = o.dense(cache.shape),
                                         .out = o.unwritten_heads(1, 1, 4)}),
               Error);
}

TEST_P(AttentionOnEveryIsa, RopeAgreesWithTheReferenceInDouble) {
  for_random_cases([&] {
    const std::vector<std::int64_t> lengths = any_lengths();
    const std::int64_t heads = from_to(1, 3), head_dim = any_of({4, 8, 20}), before = any_of({0, 5, 100'000});
    RopeParameters parameters;
    parameters.rotary_dim = any_of({0, 4, head_dim});
    parameters.scaling = *rc::gen::element(RopeScaling::none, RopeScaling::linear, RopeScaling::dynamic);
    parameters.factor = *rc::gen::element(1.0, 2.0);
    parameters.max_position_embeddings = 50;
    expect_agreement(backend(), any_seed(), 4, [&](Operands& o) {
      const Batch batch = o.batch(lengths, before);
      const Tensor x = o.heads(batch.tokens, heads, head_dim);
      o.backend().run(Rope{.x = x, .batch = batch, .parameters = parameters});
      o.result(x);
    });
  });
}

}  // namespace
}  // namespace mamba2::test
