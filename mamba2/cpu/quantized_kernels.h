#pragma once

#include <cstddef>
#include <cstdint>

#include "mamba2/cpu/quantized_layout.h"

/// The kernels of quantised weights: as those of kernels.h, built once for each instruction set.
namespace mamba2::cpu {

/// Rows of x as the bytes that a quantised dtype's weights are multiplied with (quantized_row_bytes).
struct QuantizeRowsTask {
  const float* x;
  std::int64_t x_stride, rows, k;
  std::byte* to;
  std::int64_t to_stride;  // bytes
};

/// out[m, n] = add[m, n] + bias[n] + sum_k x[m, k] w[n, k] for one panel of the weights, x from quantize_rows.  An
/// element's bits depend on its row of x, its row of w and the instruction set alone, not on m or n.
struct QuantizedLinearTask {
  const std::byte* x;
  std::int64_t x_stride, m;  // stride in bytes
  const std::byte* panel;
  std::int64_t n, k;   // n <= panel_rows
  std::int64_t ahead;  // bytes from what is read to what is fetched meanwhile, beyond the panel's end the next; 0: none
  const float* bias;   // or null
  const float* add;    // or null; may be out
  std::int64_t add_stride;
  float* out;
  std::int64_t out_stride;
  float* scratch;  // quantized_scratch(m) floats
};
constexpr std::int64_t quantized_scratch(std::int64_t m) {
  return m * panel_rows;
}

/// Of one dtype.
struct QuantizedKernels {
  void (*quantize_rows)(const QuantizeRowsTask&);
  void (*linear)(const QuantizedLinearTask&);
};

namespace portable {
QuantizedKernels quantized_kernels(DType dtype);
}
namespace avx2 {
QuantizedKernels quantized_kernels(DType dtype);
}
namespace avx512 {
QuantizedKernels quantized_kernels(DType dtype);
}
namespace avx512_vnni {
QuantizedKernels quantized_kernels(DType dtype);
}

}  // namespace mamba2::cpu
