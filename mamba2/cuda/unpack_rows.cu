// Rows of packed weights as plain elements: embedding rows, and the weights of products with many rows.
//
// Parallel: a thread takes the eight elements of a block that one cell has, so a warp reads and writes 256 neighbouring
// columns of a row.  Bound by writing; each row's header is read by all its threads, out of L1.
#include <algorithm>

#include "mamba2/cuda/check.h"
#include "mamba2/cuda/element.cuh"
#include "mamba2/cuda/packed_format.h"
#include "mamba2/cuda/unpack_rows.h"

namespace mamba2::cuda {
namespace {

constexpr int block_threads = 256;

template <DType Type, class Out>
__global__ void __launch_bounds__(block_threads) unpack_kernel(const UnpackRows op, bool vectors) {
  using Format = PackedFormat<Type>;
  const int units = (op.columns + unit_columns - 1) / unit_columns, unit_threads = unit_columns / lane_elements;
  const unsigned number = blockIdx.x * block_threads + threadIdx.x;
  const unsigned row_threads = static_cast<unsigned>(units * unit_threads);
  const std::int64_t i = number / row_threads;
  const int in_row = static_cast<int>(number % row_threads);
  const int unit = in_row / unit_threads, block = in_row % unit_threads / 4, t = in_row % 4;
  const int column = unit * unit_columns + block * block_columns + 4 * t;
  if (i >= op.count || column >= op.columns) return;
  const std::int64_t row = op.ids != nullptr ? op.ids[i] : op.first + i;
  float elements[lane_elements];
  if (0 <= row && row < op.weight_rows) {
    const std::byte* const from =
        static_cast<const std::byte*>(op.weight) + (row / four_rows * units + unit) * Format::unit_bytes;
    unpacked_elements<Type>(from, static_cast<int>(row % four_rows), block, t, elements);
  } else {
#pragma unroll
    for (int k = 0; k < lane_elements; ++k) elements[k] = not_a_number();
  }
  Out* const to = static_cast<Out*>(op.out.data) + i * op.out.stride + column;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float four[4] = {elements[4 * half], elements[4 * half + 1], elements[4 * half + 2], elements[4 * half + 3]};
    if (vectors) {
      store_run(to + 16 * half, four);
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) to[16 * half + k] = rounded<Out>(four[k]);
    }
  }
}

std::int64_t threads_of_row(const UnpackRows& op) {
  const std::int64_t units = (op.columns + unit_columns - 1) / unit_columns;
  return units * (unit_columns / lane_elements);
}

template <DType Type>
void launch(const UnpackRows& op, cudaStream_t stream) {
  const std::int64_t threads = op.count * threads_of_row(op);
  const auto blocks = static_cast<unsigned>((threads + block_threads - 1) / block_threads);
  const std::size_t run_bytes = 4 * element_size(op.out_dtype);
  const bool vectors = reinterpret_cast<std::uintptr_t>(op.out.data) % run_bytes == 0 && op.out.stride % 4 == 0;
  if (op.out_dtype == DType::f32) {
    unpack_kernel<Type, float><<<blocks, block_threads, 0, stream>>>(op, vectors);
  } else if (op.out_dtype == DType::bf16) {
    unpack_kernel<Type, __nv_bfloat16><<<blocks, block_threads, 0, stream>>>(op, vectors);
  } else {
    fail_dtype("unpack_rows out", op.out_dtype, "f32 or bf16");
  }
}

/// The rows from `first` on.
UnpackRows some_rows(const UnpackRows& op, std::int64_t first, std::int64_t count) {
  UnpackRows part = op;
  part.count = count;
  part.first = op.first + first;
  if (op.ids != nullptr) part.ids = op.ids + first;
  part.out.data = static_cast<std::byte*>(op.out.data) +
                  first * op.out.stride * static_cast<std::int64_t>(element_size(op.out_dtype));
  return part;
}

void launch_for_dtype(const UnpackRows& op, cudaStream_t stream) {
  switch (op.weight_dtype) {
    case DType::q8_0: return launch<DType::q8_0>(op, stream);
    case DType::q4_0: return launch<DType::q4_0>(op, stream);
    case DType::q4_k: return launch<DType::q4_k>(op, stream);
    case DType::q6_k: return launch<DType::q6_k>(op, stream);
    default: fail_dtype("unpack_rows", op.weight_dtype, "q8_0, q4_0, q4_k or q6_k");
  }
}

}  // namespace

void unpack_rows(const UnpackRows& op, cudaStream_t stream) {
  if (op.columns == 0) return;
  constexpr std::int64_t most_threads = std::int64_t{1} << 31;  // numbered in 32 bits, which divide fast
  const std::int64_t at_a_time = std::max<std::int64_t>(1, most_threads / threads_of_row(op));
  for (std::int64_t first = 0; first < op.count; first += at_a_time)
    launch_for_dtype(some_rows(op, first, std::min(at_a_time, op.count - first)), stream);
  check_launch("unpack_rows");
}

}  // namespace mamba2::cuda
