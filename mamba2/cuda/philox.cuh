#pragma once

namespace mamba2::cuda {

/// Philox4x32-10 as in mamba2/base/random.h.  Salmon et al. 2011: ten rounds on four words.
__device__ __forceinline__ uint4 philox(uint2 key, uint4 counter) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const unsigned high0 = __umulhi(0xD2511F53U, counter.x), low0 = 0xD2511F53U * counter.x;
    const unsigned high1 = __umulhi(0xCD9E8D57U, counter.z), low1 = 0xCD9E8D57U * counter.z;
    counter = {high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0};
    key.x += 0x9E3779B9U;
    key.y += 0xBB67AE85U;
  }
  return counter;
}

/// A float to bf16's upper half, rounded up with a probability that is the part cut off; infinities and NaN stay.
__device__ __forceinline__ unsigned rounded_by_chance(float value, unsigned random_16_bits) {
  const unsigned bits = __float_as_uint(value);
  return ((bits & 0x7F800000U) == 0x7F800000U ? bits : bits + random_16_bits) >> 16;
}

}  // namespace mamba2::cuda
