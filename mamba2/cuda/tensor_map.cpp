#include "mamba2/cuda/tensor_map.h"

#include <array>

#include "mamba2/base/error.h"
#include "mamba2/cuda/check.h"

namespace mamba2::cuda {
namespace {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

/// From the driver that is loaded, so that nothing links against it.
EncodeTiled find_encode_tiled() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
        "find cuTensorMapEncodeTiled in the driver");
  require(found == cudaDriverEntryPointSuccess, "CUDA: the driver lacks cuTensorMapEncodeTiled (12.0 or later has it)");
  return reinterpret_cast<EncodeTiled>(function);
}

}  // namespace

CUtensorMap panel_map(const ConstRows& rows, DType dtype, std::int64_t columns, std::int64_t row_count, int box_rows) {
  static const EncodeTiled encode = find_encode_tiled();
  constexpr std::size_t element_bytes = 2;
  constexpr cuuint32_t panel_columns = 64;
  const std::array<cuuint64_t, 2> extents{static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(row_count)};
  const std::array<cuuint64_t, 1> strides{static_cast<cuuint64_t>(rows.stride) * element_bytes};
  const std::array<cuuint32_t, 2> box{panel_columns, static_cast<cuuint32_t>(box_rows)};
  const std::array<cuuint32_t, 2> steps{1, 1};
  const auto type = dtype == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  CUtensorMap map;
  const CUresult result = encode(&map, type, 2, const_cast<void*>(rows.data), extents.data(), strides.data(),
                                 box.data(), steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(result == CUDA_SUCCESS, "CUDA: tensor map of {} x {} elements, rows {} apart: error {}", row_count, columns,
          rows.stride, static_cast<int>(result));
  return map;
}

}  // namespace mamba2::cuda
