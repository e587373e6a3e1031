#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "mamba2/cpu/isa.h"
#include "mamba2/cpu/memory.h"
#include "mamba2/cpu/quantized_kernels.h"
#include "mamba2/cpu/thread_pool.h"
#include "mamba2/ops/backend.h"

namespace mamba2::cpu {

/// A quantised matrix in panels (quantized_layout.h): every bit of its blocks, ordered for the kernels.
class QuantizedWeight : public PreparedWeight {
 public:
  /// host is held_as already, or of any dtype that can be quantised to it.  Throws Error where a value can't be.
  QuantizedWeight(const Tensor& host, DType held_as, Isa isa, ThreadPool& pool);

  std::size_t bytes() const override { return panels_.size(); }

  const QuantizedKernels& kernels() const { return kernels_; }
  const QuantizedLayout& layout() const { return layout_; }
  std::int64_t panel_bytes() const { return panel_bytes_; }
  const std::byte* panel(std::int64_t index) const { return panels_.data() + index * panel_bytes_; }

  /// The values of one row, exactly as dequantize() reads them.
  void read_row(std::int64_t row, std::span<float> to) const;

 private:
  void pack(const Tensor& rows, std::byte* panel) const;

  const QuantizedKernels kernels_;
  const QuantizedLayout& layout_;
  const std::int64_t blocks_;  // of a row
  const std::int64_t panel_bytes_;
  PackedMemory panels_;
};

}  // namespace mamba2::cpu
