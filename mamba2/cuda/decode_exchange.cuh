// Values that blocks of one grid hand to each other through L2 while they run.  A word holds a value and, in its upper
// half, the number of the exchange that it belongs to; it is written and read whole.  So a reader sees by the word
// itself that it has come: no counter is waited for, no fence orders it, and a hand-over costs one way to L2 and one
// back.  Whoever waits must be sure that the writer runs: all blocks are resident at once.
#pragma once

#include <cstdint>

#include "mamba2/cuda/decode_plan.h"

namespace mamba2::cuda {

__device__ __forceinline__ std::uint64_t exchange_word(float value, unsigned number) {
  return std::uint64_t{number} << 32 | __float_as_uint(value);
}

__device__ __forceinline__ void send_word(std::uint64_t* to, std::uint64_t word) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}
__device__ __forceinline__ void send(std::uint64_t* to, float value, unsigned number) {
  send_word(to, exchange_word(value, number));
}

/// What may have come of Count (2 or 4) neighbouring values, from the place of the first, a multiple of Count.
template <int Count>
struct Received {
  float values[Count];
  bool all;  // of exchange `number`

  __device__ __forceinline__ void look(const std::uint64_t* from, unsigned number) {
    all = true;
#pragma unroll
    for (int i = 0; i < Count; i += 2) {
      std::uint64_t words[2];
      asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
                   : "=l"(words[0]), "=l"(words[1])
                   : "l"(from + i * (exchange_run / 4))
                   : "memory");
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        values[i + k] = __uint_as_float(static_cast<unsigned>(words[k]));
        all = all && static_cast<unsigned>(words[k] >> 32) == number;
      }
    }
  }
};

/// Waits for one word.
__device__ __forceinline__ float receive(const std::uint64_t* from, unsigned number) {
  std::uint64_t word;
  do {
    asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
  } while (static_cast<unsigned>(word >> 32) != number);
  return __uint_as_float(static_cast<unsigned>(word));
}

}  // namespace mamba2::cuda
