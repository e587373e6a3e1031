#include "mamba2/cuda/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

constexpr int heads = 4, kv_heads = 2, capacity = 320;

/// Queries over a cache that holds every key already; all values are bf16s, so that nothing is rounded but what a
/// kernel makes.
struct Case {
  int head_dim;
  float scale;
  std::vector<std::int32_t> start, slots, positions;
  std::vector<double> q, k, v;  // (tokens, heads, head_dim); (slots, capacity, kv_heads, head_dim)

  std::size_t q_at(int token, int head) const { return static_cast<std::size_t>((token * heads + head) * head_dim); }
  std::size_t key_at(int slot, int key, int head) const {
    return static_cast<std::size_t>(((slot * capacity + key) * kv_heads + head / (heads / kv_heads)) * head_dim);
  }
};

Case random_case(int head_dim, float scale, const std::vector<int>& lengths, int before, Random& random) {
  Case c{head_dim, scale, {0}, {}, {}, {}, {}, {}};
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    c.start.push_back(c.start.back() + lengths[i]);
    c.slots.push_back(static_cast<std::int32_t>(lengths.size() - i));  // slot 0 belongs to nobody
    for (int t = 0; t < lengths[i]; ++t) c.positions.push_back(before + t);
  }
  auto drawn = [&](std::size_t count) {
    return rounded_to(normal_values(count * static_cast<std::size_t>(head_dim), random), DType::bf16);
  };
  c.q = drawn(c.positions.size() * heads);
  c.k = drawn((lengths.size() + 1) * capacity * kv_heads);
  c.v = drawn((lengths.size() + 1) * capacity * kv_heads);
  return c;
}

struct Result {
  std::vector<double> out;
  std::vector<double> magnitude;  // with |v| in place of v
};

Result reference(const Case& c) {
  Result result{std::vector<double>(c.q.size()), std::vector<double>(c.q.size())};
  const auto dim = static_cast<std::size_t>(c.head_dim);
  for (std::size_t s = 0; s < c.slots.size(); ++s)
    for (int t = c.start[s]; t < c.start[s + 1]; ++t)
      for (int h = 0; h < heads; ++h) {
        const double* const q = c.q.data() + c.q_at(t, h);
        std::vector<double> scores;
        for (int j = 0; j <= c.positions[static_cast<std::size_t>(t)]; ++j)
          scores.push_back(c.scale * std::inner_product(q, q + dim, c.k.data() + c.key_at(c.slots[s], j, h), 0.0));
        const double most = *std::max_element(scores.begin(), scores.end());
        double total = 0;
        for (double& score : scores) total += score = std::exp(score - most);
        for (std::size_t j = 0; j < scores.size(); ++j)
          for (std::size_t d = 0; d < dim; ++d) {
            const double value = c.v[c.key_at(c.slots[s], static_cast<int>(j), h) + d];
            result.out[c.q_at(t, h) + d] += scores[j] / total * value;
            result.magnitude[c.q_at(t, h) + d] += scores[j] / total * std::abs(value);
          }
      }
  return result;
}

using Attend = void (*)(const Attention&, cudaStream_t);

std::vector<double> on_device(const Case& c, Attend attend_by) {
  const DeviceArray q(c.q, DType::f32), k(c.k, DType::f32), v(c.v, DType::f32), start(c.start), slots(c.slots),
      positions(c.positions), out(c.q.size() * sizeof(float));
  auto in = [&](const DeviceArray& array) {
    return Heads{static_cast<float*>(array.data()), heads * c.head_dim, c.head_dim};
  };
  Attention op;
  op.q = in(q);
  op.out = in(out);
  op.heads = heads;
  op.kv_heads = kv_heads;
  op.head_dim = c.head_dim;
  op.scale = c.scale;
  op.batch = {start.ints(), slots.ints(), static_cast<int>(c.slots.size()), c.start.back()};
  op.positions = positions.ints();
  op.k_cache = static_cast<float*>(k.data());
  op.v_cache = static_cast<float*>(v.data());
  op.capacity = capacity;
  EXPECT_TRUE(attend_tiles_takes(op, 90));
  attend_by(op, nullptr);
  return out.download(DType::f32);
}

void expect_agreement(int head_dim, float scale, const std::vector<int>& lengths, int before, Random& random) {
  const Case c = random_case(head_dim, scale, lengths, before, random);
  const Result want = reference(c);
  // A score is a sum of head_dim exact products, of normal numbers; its exp and the sums over keys follow.
  const double score = double{scale} * head_dim * 2 * head_dim * epsilon(DType::f32),
               sums = 2 * capacity * epsilon(DType::f32);
  const double in_f32 = 4 * score + sums + 16 * epsilon(DType::f32), share = epsilon(DType::bf16) / 2;
  const std::vector<double> tiles = on_device(c, attend_tiles), plain = on_device(c, attend);
  for (std::size_t i = 0; i < want.out.size(); ++i) {
    ASSERT_NEAR(tiles[i], want.out[i], (in_f32 + share) * want.magnitude[i]) << head_dim << " element " << i;
    ASSERT_NEAR(plain[i], want.out[i], in_f32 * want.magnitude[i]) << head_dim << " element " << i;
  }
}

TEST(AttentionTiles, AgreesWithTheReference) {
  Random random(7);
  for (const int head_dim : {32, 64, 128})
    for (const float scale : {0.02F, 0.3F})
      for (const auto& lengths : std::vector<std::vector<int>>{{16}, {128}, {129, 0, 40}, {1, 200, 63}})
        for (const int before : {0, 70}) expect_agreement(head_dim, scale, lengths, before, random);
}

TEST(AttentionTiles, ARowHasTheBitsThatItHasInAnotherSplit) {
  Random random(8);
  for (const int head_dim : {32, 64, 128}) {
    Case whole = random_case(head_dim, 0.2F, {200}, 40, random);
    const std::vector<double> want = on_device(whole, attend_tiles);
    Case rest = whole;  // its last 91 tokens
    rest.q.erase(rest.q.begin(), rest.q.begin() + static_cast<std::ptrdiff_t>(whole.q_at(109, 0)));
    rest.positions.erase(rest.positions.begin(), rest.positions.begin() + 109);
    rest.start = {0, 91};
    const std::vector<double> got = on_device(rest, attend_tiles);
    EXPECT_EQ(got, std::vector<double>(want.begin() + static_cast<std::ptrdiff_t>(whole.q_at(109, 0)), want.end()));
  }
}

TEST(AttentionTiles, APositionOutsideTheCacheGivesNaN) {
  Random random(9);
  Case c = random_case(64, 0.2F, {40}, 0, random);
  c.positions[3] = -1;
  c.positions[39] = capacity;
  const std::vector<double> out = on_device(c, attend_tiles);
  for (int t = 0; t < 40; ++t) EXPECT_EQ(std::isnan(out[c.q_at(t, 1)]), t == 3 || t == 39) << t;
}

}  // namespace
}  // namespace mamba2::cuda
