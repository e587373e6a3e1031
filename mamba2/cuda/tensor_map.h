#pragma once

#include <cuda.h>

#include "mamba2/cuda/batch.h"

namespace mamba2::cuda {

/// A tensor map over rows of 2-byte elements for boxes of 64 columns and box_rows rows, in 128-byte swizzled panels
/// (hopper.cuh); what lies past the last row reads as zero.  data 16-byte aligned, the rows' stride a multiple of 8
/// elements.  Throws Error where the driver refuses it.
CUtensorMap panel_map(const ConstRows& rows, DType dtype, std::int64_t columns, std::int64_t row_count, int box_rows);

}  // namespace mamba2::cuda
