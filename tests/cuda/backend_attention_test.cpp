// RoPE and attention on the CUDA backend.
#include "tests/cuda/backend_support.h"

namespace mamba2::test {
namespace {

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

}  // namespace
}  // namespace mamba2::test
