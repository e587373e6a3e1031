// The next token of each row of logits: greedily, or by temperature, top-k, top-p, min-p and a draw, as generate's
// processors and samplers do on the host.
//
// Parallel: a block a row.  Nothing is sorted: which tokens stay is a bound (score, and the id among equal scores),
// found digit by digit of the scores' order: counts for top-k, masses for top-p. Order: maxima, counts and masses do
// not depend on the order they are taken in (masses are integers, units of 2^-60); other sums are made by the same
// threads in the same order in every run.  exp is rounded from double, as the host's nearly always is, and sums differ
// from the host's by units of double: so another token than the host's is chosen only where a draw or a cut falls
// within about 1e-7 of the mass of a border.
#include <cfloat>

#include "mamba2/cuda/check.h"
#include "mamba2/cuda/choose_token.h"
#include "mamba2/cuda/early_launch.cuh"
#include "mamba2/cuda/philox.cuh"

namespace mamba2::cuda {
namespace {

constexpr int block_threads = 1024;
constexpr int warps = block_threads / 32;
constexpr int digit_bits = 8, digits = 32 / digit_bits, digit_values = 1 << digit_bits;
constexpr double mass_unit = 0x1p-60;

/// An unsigned number that orders as the scores do, the two zeros equal, and back.  No NaN comes here.
__device__ __forceinline__ unsigned order_of(float score) {
  const unsigned bits = __float_as_uint(score + 0.0F);
  return bits ^ ((bits >> 31) != 0 ? 0xFFFFFFFFU : 0x80000000U);
}

/// The tokens that are still in: those of a higher score, and of this one those from this id up.
struct Bound {
  unsigned order = 0;
  int id = 0;
  __device__ __forceinline__ bool keeps(float score, int i) const {
    const unsigned own = order_of(score);
    return score != -INFINITY && (own > order || (own == order && i >= id));
  }
};

struct Shared {
  union {
    unsigned long long masses[digit_values];
    unsigned counts[digit_values];
    double sums[warps];
    unsigned long long best[warps];
  };
  unsigned counts_of_masses[digit_values];
  unsigned prefix, rank;
  unsigned long long mass;
  int found, last;
};

/// A row's scores and how a block walks them.
struct Row {
  float* scores;
  int size;
  template <class F>
  __device__ __forceinline__ void for_mine(F&& f) const {
    for (int i = static_cast<int>(threadIdx.x); i < size; i += block_threads) f(i, scores[i]);
  }
  /// Neighbouring tokens of one thread, for what goes by the order of ids.
  __device__ __forceinline__ int first_of(int thread) const {
    const int each = (size + block_threads - 1) / block_threads;
    return min(thread * each, size);
  }
};

/// exp as the host rounds it.
__device__ __forceinline__ float weight_of(float score, float most) {
  return static_cast<float>(exp(static_cast<double>(score) - static_cast<double>(most)));
}

template <class T, class Fold>
__device__ T fold_block(T value, T* scratch, Fold&& fold) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    value = fold(value, __shfl_xor_sync(0xFFFFFFFFU, value, distance));
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch[threadIdx.x % 32];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    value = fold(value, __shfl_xor_sync(0xFFFFFFFFU, value, distance));
  __syncthreads();
  return value;
}

__device__ double sum_block(double value, Shared& shared) {
  return fold_block(value, shared.sums, [](double a, double b) { return a + b; });
}

/// The place of the largest score, the first of equal ones, in every thread; size where one is NaN.
__device__ int place_of_largest(const Row& row, Shared& shared) {
  unsigned long long best = 0;  // its order above, ids falling below
  auto take = [&](int i, float score) {
    const unsigned order = score != score ? 0xFFFFFFFFU : order_of(score);
    const unsigned long long key =
        static_cast<unsigned long long>(order) << 32 | (0xFFFFFFFFU - static_cast<unsigned>(i));
    best = key > best ? key : best;
  };
  int i = static_cast<int>(threadIdx.x) * 4;
  if (reinterpret_cast<std::uintptr_t>(row.scores) % 16 == 0) {
#pragma unroll 4
    for (; i + 4 <= row.size; i += 4 * block_threads) {
      const float4 four = *reinterpret_cast<const float4*>(row.scores + i);
      take(i, four.x);
      take(i + 1, four.y);
      take(i + 2, four.z);
      take(i + 3, four.w);
    }
    for (int rest = i; rest < min(i + 4, row.size); ++rest) take(rest, row.scores[rest]);
  } else {
    row.for_mine(take);
  }
  best = fold_block(best, shared.best, [](auto a, auto b) { return a > b ? a : b; });
  if (best >> 32 == 0xFFFFFFFFU) return row.size;
  return static_cast<int>(0xFFFFFFFFU - static_cast<unsigned>(best));
}

/// Each token of the history counts once.  seen: a bit for each token.
__device__ void penalise(const ChooseToken& op, const Row& row, std::int64_t r, float penalty, unsigned* seen) {
  for (int i = static_cast<int>(threadIdx.x); i < (row.size + 31) / 32; i += block_threads) seen[i] = 0;
  __syncthreads();
  const std::int32_t* history = op.history + r * op.history_stride;
  for (int i = static_cast<int>(threadIdx.x); i < op.history_length; i += block_threads) {
    const int id = history[i];
    if (id < 0 || id >= row.size) continue;
    const unsigned bit = 1U << (id % 32);
    if ((atomicOr(seen + id / 32, bit) & bit) != 0) continue;
    const float score = row.scores[id];
    row.scores[id] = score < 0 ? score * penalty : score / penalty;
  }
  __syncthreads();
}

/// The bound that keeps the k best scores and those equal to the k-th.
__device__ Bound best_k(const Row& row, int k, Shared& shared) {
  unsigned prefix = 0, rank = static_cast<unsigned>(k);  // rank: among those that share the prefix
  for (int digit = digits - 1; digit >= 0; --digit) {
    const int shift = digit * digit_bits;
    if (threadIdx.x < digit_values) shared.counts[threadIdx.x] = 0;
    __syncthreads();
    row.for_mine([&](int, float score) {
      const unsigned order = order_of(score);
      if (digit == digits - 1 || order >> (shift + digit_bits) == prefix)
        atomicAdd(shared.counts + (order >> shift) % digit_values, 1U);
    });
    __syncthreads();
    if (threadIdx.x == 0) {
      int value = digit_values - 1;
      while (value > 0 && shared.counts[value] < rank) rank -= shared.counts[value--];
      shared.prefix = prefix << digit_bits | static_cast<unsigned>(value);
      shared.rank = rank;
    }
    __syncthreads();
    prefix = shared.prefix;
    rank = shared.rank;
    __syncthreads();
  }
  return {prefix, 0};
}

/// The id from which so many of the tokens with this score are: higher ids first.
__device__ int id_of_tie(const Row& row, unsigned order, unsigned count, Shared& shared) {
  const int begin = row.first_of(static_cast<int>(threadIdx.x)), end = row.first_of(static_cast<int>(threadIdx.x) + 1);
  unsigned own = 0;
  for (int i = begin; i < end; ++i) own += order_of(row.scores[i]) == order ? 1U : 0U;
  // those of higher threads come first
  unsigned from_here = own;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const unsigned other = __shfl_down_sync(0xFFFFFFFFU, from_here, distance);
    if (lane + distance < 32) from_here += other;
  }
  if (lane == 0) shared.counts[warp] = from_here;
  __syncthreads();
  for (int w = warp + 1; w < warps; ++w) from_here += shared.counts[w];
  const unsigned before = from_here - own;
  if (before < count && count <= from_here) {
    unsigned left = count - before;
    for (int i = end - 1; i >= begin; --i)
      if (order_of(row.scores[i]) == order && --left == 0) shared.found = i;
  }
  __syncthreads();
  const int found = shared.found;
  __syncthreads();  // draw() writes it anew
  return found;
}

/// The bound of the best tokens, from the best on, until what is left of the mass is at most removed_mass.
__device__ Bound most_of_the_mass(const Row& row, const Bound& bound, float most, float removed_mass, Shared& shared) {
  double sum = 0;
  row.for_mine(
      [&](int i, float score) { sum += bound.keeps(score, i) ? static_cast<double>(weight_of(score, most)) : 0.0; });
  const auto divisor = static_cast<float>(sum_block(sum, shared));
  auto mass_of = [&](float score) {
    return static_cast<unsigned long long>(static_cast<double>(weight_of(score, most) / divisor) / mass_unit);
  };
  auto goes_on = [&](unsigned long long left) {
    return static_cast<float>(static_cast<double>(left) * mass_unit) > removed_mass;
  };
  unsigned prefix = 0, count = 0;
  unsigned long long left = 0;  // of the mass, before the best of those that share the prefix
  for (int digit = digits - 1; digit >= 0; --digit) {
    const int shift = digit * digit_bits;
    if (threadIdx.x < digit_values) {
      shared.masses[threadIdx.x] = 0;
      shared.counts_of_masses[threadIdx.x] = 0;
    }
    __syncthreads();
    row.for_mine([&](int i, float score) {
      const unsigned order = order_of(score);
      if (!bound.keeps(score, i) || (digit != digits - 1 && order >> (shift + digit_bits) != prefix)) return;
      atomicAdd(shared.masses + (order >> shift) % digit_values, mass_of(score));
      atomicAdd(shared.counts_of_masses + (order >> shift) % digit_values, 1U);
    });
    __syncthreads();
    if (threadIdx.x == 0) {
      if (digit == digits - 1)
        for (const unsigned long long mass : shared.masses) left += mass;
      int value = digit_values - 1, lowest = 0;  // lowest: where nothing stops the walk, the last token is the bound
      for (; value >= 0; --value) {
        if (shared.counts_of_masses[value] == 0) continue;
        lowest = value;
        if (!goes_on(left - min(left, shared.masses[value]))) break;
        left -= shared.masses[value];
      }
      if (value < 0) left += shared.masses[lowest];
      const int chosen = value < 0 ? lowest : value;
      shared.prefix = prefix << digit_bits | static_cast<unsigned>(chosen);
      shared.mass = left;
      shared.rank = shared.counts_of_masses[chosen];
    }
    __syncthreads();
    prefix = shared.prefix;
    left = shared.mass;
    count = shared.rank;
    __syncthreads();
  }
  // Of equal ones as many as it takes.
  const unsigned bits = prefix ^ ((prefix >> 31) != 0 ? 0x80000000U : 0xFFFFFFFFU);
  const unsigned long long each = mass_of(__uint_as_float(bits));
  unsigned low = 1, high = count;
  while (low < high) {
    const unsigned middle = low + (high - low) / 2;
    if (goes_on(left - min(left, middle * each)))
      low = middle + 1;
    else
      high = middle;
  }
  return {prefix, low == count ? 0 : id_of_tie(row, prefix, low, shared)};
}

/// The token whose weight lies under uniform times their sum, of those that are in and at least min_p times as probable
/// as the best.
__device__ int draw(const Row& row, const Bound& bound, float most, float min_p, double uniform, Shared& shared) {
  float least = 0;
  float divisor = 1;
  if (min_p > 0) {
    double sum = 0;
    row.for_mine(
        [&](int i, float score) { sum += bound.keeps(score, i) ? static_cast<double>(weight_of(score, most)) : 0.0; });
    divisor = static_cast<float>(sum_block(sum, shared));
    least = min_p * (1.0F / divisor);
  }
  auto weight = [&](int i) {
    const float score = row.scores[i];
    if (!bound.keeps(score, i)) return 0.0F;
    const float value = weight_of(score, most);
    return min_p > 0 && value / divisor < least ? 0.0F : value;
  };
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int begin = row.first_of(static_cast<int>(threadIdx.x)), end = row.first_of(static_cast<int>(threadIdx.x) + 1);
  double own = 0;
  for (int i = begin; i < end; ++i) own += static_cast<double>(weight(i));
  double up_to = own;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const double other = __shfl_up_sync(0xFFFFFFFFU, up_to, distance);
    if (lane >= distance) up_to += other;
  }
  if (lane == 31) shared.sums[warp] = up_to;
  if (threadIdx.x == 0) {
    shared.found = row.size;
    shared.last = 0;
  }
  __syncthreads();
  double before = 0, total = 0;
  for (int w = 0; w < warps; ++w) {
    if (w == warp) before = total;
    total += shared.sums[w];
  }
  const double point = uniform * total;
  double sum = before + (up_to - own);
  if (before + up_to > point && own > 0) {
    for (int i = begin; i < end; ++i) {
      const auto value = static_cast<double>(weight(i));
      sum += value;
      if (value > 0 && sum > point) {
        atomicMin(&shared.found, i);
        break;
      }
    }
  }
  if (own > 0)
    for (int i = end - 1; i >= begin; --i)
      if (weight(i) > 0) {
        atomicMax(&shared.last, i);
        break;
      }
  __syncthreads();
  return shared.found < row.size ? shared.found : shared.last;
}

__device__ int sampled(const TokenRule& rule, int step, const Row& row, float most, Shared& shared) {
  if (rule.temperature != 1) {
    for (int i = static_cast<int>(threadIdx.x); i < row.size; i += block_threads) row.scores[i] /= rule.temperature;
    most /= rule.temperature;
    __syncthreads();
  }
  if (most == INFINITY) return score_is_infinite;
  if (most == -INFINITY) return all_ruled_out;
  Bound bound;
  if (rule.top_k > 0 && rule.top_k < row.size) bound = best_k(row, rule.top_k, shared);
  if (rule.removed_mass > 0) bound = most_of_the_mass(row, bound, most, rule.removed_mass, shared);
  const uint4 words = philox(
      {static_cast<unsigned>(rule.seed), static_cast<unsigned>(rule.seed >> 32)},
      {static_cast<unsigned>(step), 0, static_cast<unsigned>(rule.stream), static_cast<unsigned>(rule.stream >> 32)});
  const unsigned long long bits = words.x | static_cast<unsigned long long>(words.y) << 32;
  const double uniform = static_cast<double>(bits >> 11) * 0x1p-53;
  return draw(row, bound, most, rule.min_p, uniform, shared);
}

__global__ void __launch_bounds__(block_threads) choose_token_kernel(const ChooseToken op) {
  extern __shared__ unsigned seen[];
  __shared__ Shared shared;
  const std::int64_t r = blockIdx.x;
  const Row row{static_cast<float*>(op.logits.data) + r * op.logits.stride, op.vocab_size};
  wait_for_previous();
  const TokenRule rule = op.rules[r];
  const int step = op.steps[r];
  if (op.history != nullptr && rule.repetition_penalty != 1) penalise(op, row, r, rule.repetition_penalty, seen);
  int token = place_of_largest(row, shared);
  if (token == row.size) {
    token = score_is_nan;
  } else if (rule.samples != 0) {
    const float most = row.scores[token];
    __syncthreads();
    token = sampled(rule, step, row, most, shared);
  }
  if (threadIdx.x == 0) {
    op.out[r] = token;
    op.steps[r] = step + 1;
  }
  for (int i = static_cast<int>(r) * block_threads + static_cast<int>(threadIdx.x); i < op.moved;
       i += static_cast<int>(op.rows) * block_threads)
    ++op.positions[i];
}

}  // namespace

void choose_token(const ChooseToken& op, cudaStream_t stream) {
  if (op.rows == 0) return;
  const std::size_t seen_bytes = op.history != nullptr ? static_cast<std::size_t>(op.vocab_size + 31) / 32 * 4 : 0;
  static OncePerDevice raised;
  raised.run([] {
    check(cudaFuncSetAttribute(choose_token_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               choose_token_largest_vocabulary / 8),
          "choose_token");
  });
  launch_early<const ChooseToken>(choose_token_kernel, op, dim3(static_cast<unsigned>(op.rows)), block_threads,
                                  "choose_token", stream, seen_bytes);
}

}  // namespace mamba2::cuda
