// The state's step, as every kernel that takes it computes it: a lane has 16 bytes of a row at a time, and a row's
// product with C folds over its lanes.
#pragma once

#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/mixer_step.h"
#include "mamba2/cuda/philox.cuh"
#include "mamba2/ops/ops.h"

namespace mamba2::cuda {

/// S = decay S + added B for a lane's elements; added = dt x.  Returns y + S C.
template <int Count>
__device__ __forceinline__ float step_state(float (&state)[Count], float decay, float added, const float (&B)[Count],
                                            const float (&C)[Count], float y) {
#pragma unroll
  for (int e = 0; e < Count; ++e) {
    state[e] = fmaf(state[e], decay, added * B[e]);
    y = fmaf(state[e], C[e], y);
  }
  return y;
}

/// Sixteen bytes of the state: they pass once a step, and nothing else should leave the cache for them.
__device__ __forceinline__ uint4 load_once(const void* from) {
  return __ldcs(static_cast<const uint4*>(from));
}
__device__ __forceinline__ void store_once(void* to, const uint4& value) {
  __stcs(static_cast<uint4*>(to), value);
}

/// Random bits for the eight neighbouring elements of row p of a head that this lane holds, two a word.  A Philox block
/// has the bits of two of them and of those 16, 32 and 48 further on, which are three other lanes': each of the four
/// makes one block, and they exchange words.
__device__ __forceinline__ uint4 random_bits(const StochasticRounding& rounding, int position, int head, int p, int n,
                                             int row_blocks) {
  const unsigned w = static_cast<unsigned>(n) % 64 / 16;
  const unsigned pair = static_cast<unsigned>(n) % 16 / 2 + w;
  const uint4 made = philox({state_rounding_key[0], state_rounding_key[1]},
                            {8U * static_cast<unsigned>(p * row_blocks + n / 64) + pair, static_cast<unsigned>(head),
                             static_cast<unsigned>(position), rounding.layer});
  auto word = [&](unsigned i) { return i == 0 ? made.x : i == 1 ? made.y : i == 2 ? made.z : made.w; };
  unsigned own[4];  // from the lane that made the block of pair w ^ i
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) own[i] = __shfl_xor_sync(0xFFFFFFFFU, word(w ^ i), static_cast<int>(2 * i));
  auto of_pair = [&](unsigned j) {
    const unsigned i = j ^ w;
    return i == 0 ? own[0] : i == 1 ? own[1] : i == 2 ? own[2] : own[3];
  };
  return {of_pair(0), of_pair(1), of_pair(2), of_pair(3)};
}

/// Elements of the state as they are kept; random: bits to round by, where that is by chance.
template <class S>
__device__ __forceinline__ uint4 pack_by_chance(const float (&state)[vector_elements<S>], const uint4& random) {
  const unsigned words[4] = {random.x, random.y, random.z, random.w};
  unsigned pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const unsigned high = rounded_by_chance(state[2 * i + 1], words[i] >> 16);
    pairs[i] = rounded_by_chance(state[2 * i], words[i] & 0xFFFFU) | high << 16;
  }
  return {pairs[0], pairs[1], pairs[2], pairs[3]};
}

}  // namespace mamba2::cuda
