// Attention of one query over its keys, softmax taken online in blocks of keys (Milakov and Gimelshein 2018, algorithm
// 3): a block's scores stay in registers and L1, the sums so far are rescaled when a block brings a new maximum.
#include "mamba2/cpu/kernels/dot_tile.h"
#include "mamba2/cpu/kernels/math.h"
#include "mamba2/cpu/kernels/parts.h"

namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

constexpr std::int64_t block = 64;  // keys: their values, 64 x 128 floats, fit L1

/// out = out * keep + sum over the block of p[j] v[j].
MAMBA2_INLINE void add_values(const float* p, std::int64_t count, const float* v, std::int64_t stride,
                              std::int64_t head_dim, float keep, float* out) {
  std::int64_t d = 0;
  for (; d + lanes <= head_dim; d += lanes) {
    Floats sum = load(out + d) * keep;
    for (std::int64_t j = 0; j < count; ++j) sum = fma(broadcast(p[j]), load(v + j * stride + d), sum);
    store(out + d, sum);
  }
  const std::int64_t rest = head_dim - d;
  if (rest == 0) return;
  Floats sum = load_some(out + d, rest) * keep;
  for (std::int64_t j = 0; j < count; ++j) sum = fma(broadcast(p[j]), load_some(v + j * stride + d, rest), sum);
  store_some(out + d, sum, rest);
}

void attention(const AttentionTask& t) {
  float largest = -INFINITY, total = 0.0F;
  for (std::int64_t d = 0; d < t.head_dim; ++d) t.out[d] = 0.0F;
  for (std::int64_t first = 0; first < t.count; first += block) {
    const std::int64_t count = t.count - first < block ? t.count - first : block;
    float scores[block] = {};
    const float* const keys = t.k + first * t.k_stride;
    std::int64_t j = 0;
    for (; j + 4 <= count; j += 4)
      dot_tile<float, 1, 4>(t.q, 0, keys + j * t.k_stride, t.k_stride, t.head_dim, scores + j, 0);
    for (; j < count; ++j) dot_tile<float, 1, 1>(t.q, 0, keys + j * t.k_stride, 0, t.head_dim, scores + j, 0);
    float most = largest;
    for (j = 0; j < count; ++j) {
      scores[j] *= t.scale;
      most = scores[j] > most ? scores[j] : most;
    }
    for (j = 0; j < count; j += lanes) store(scores + j, exp(load(scores + j) - most));
    const float keep = expf(largest - most);
    float sum = 0.0F;
    for (j = 0; j < count; ++j) sum += scores[j];
    total = total * keep + sum;
    largest = most;
    add_values(scores, count, t.v + first * t.v_stride, t.v_stride, t.head_dim, keep, t.out);
  }
  const float scale = 1.0F / total;
  for (std::int64_t d = 0; d < t.head_dim; ++d) t.out[d] *= scale;
}

}  // namespace

void add_attention(Kernels& kernels) {
  kernels.attention = attention;
}

}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
