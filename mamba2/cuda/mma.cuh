// Products on tensor cores as a warp makes them, from compute capability 8.0 on.
#pragma once

namespace mamba2::cuda {

/// d += a b for a (16 x 16) and b (16 x 8) of bf16.  Lane (g, t) holds of a: columns 2 t and 2 t + 1 of rows g and g +
/// 8, then columns 2 t + 8 and 2 t + 9 of both; of b: the same in column g; of d: columns 2 t and 2 t + 1 of row g,
/// then of row g + 8.
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

}  // namespace mamba2::cuda
