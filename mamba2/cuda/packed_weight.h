#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "mamba2/tensor/tensor.h"

namespace mamba2::cuda {

/// Whether matrices of this dtype stay quantised on the device: q8_0, q4_0, q4_k and q6_k.
bool is_packed(DType dtype);

/// Bytes that such a matrix takes on the device: GGUF's, q6_k 1/15 more, with rows filled up to a multiple of 256
/// columns and their number to one of 4.  Throws Error where they are more than a size_t counts.
std::size_t packed_bytes(DType dtype, std::int64_t rows, std::int64_t columns);

/// Puts the bits of a matrix in the order that mamba2/cuda/packed_format.h draws.  host: on the host, without gaps;
/// to: packed_bytes() of it.
void pack(const Tensor& host, std::span<std::byte> to);

}  // namespace mamba2::cuda
