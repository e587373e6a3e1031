#include "mamba2/cuda/ssd_scan.h"

#include <algorithm>

#include "mamba2/base/error.h"
#include "mamba2/cuda/device.h"

namespace mamba2::cuda {
namespace {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

bool rows_fit_tma(const ConstRows& rows) {
  return reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0 && rows.stride * 2 % 16 == 0;
}

}  // namespace

SsdTiles ssd_tiles(const SsdShape& shape, const Batch& batch, int multiprocessors) {
  // A block scans two heads of one group, which share its tiles of B and C.
  constexpr int heads_per_block = 2;
  // The first pass runs two blocks on a multiprocessor, over fewer tokens than the second.
  constexpr int parts_per_segment = 3;
  const std::int64_t heads_per_group = shape.num_heads / shape.n_groups;
  const std::int64_t head_blocks = shape.n_groups * ceil_div(heads_per_group, heads_per_block);
  const std::int64_t segments_wanted = std::max<std::int64_t>(1, multiprocessors / head_blocks);
  const std::int64_t part =
      ceil_div(ceil_div(std::max<std::int64_t>(batch.tokens, 1), segments_wanted * parts_per_segment),
               ssd_chunk_tokens) *
      ssd_chunk_tokens;
  const std::int64_t segment = part * parts_per_segment;
  SsdTiles tiles;
  tiles.heads_per_block = heads_per_block;
  tiles.part_tokens = static_cast<int>(part);
  tiles.segment_tokens = static_cast<int>(segment);
  tiles.segments_bound = static_cast<int>(batch.tokens / segment) + batch.sequences;
  // only sequences longer than a segment have parts: at most tokens / segment of them, each with an entering state and
  // a part not full
  tiles.parts_bound = static_cast<int>(batch.tokens / part + 2 * (batch.tokens / segment));
  return tiles;
}

bool ssd_scan_is_tuned(const SsdScan& scan, int compute_capability) {
  const bool dtype_fits = scan.dtype == DType::bf16 || scan.dtype == DType::f16;
  const bool state_fits = scan.state_dtype == DType::f32 || scan.state_dtype == DType::bf16;
  const bool shape_fits = scan.shape.head_dim == 64 && (scan.shape.state_size == 64 || scan.shape.state_size == 128);
  const bool rows_fit = rows_fit_tma(scan.x) && rows_fit_tma(scan.B) && rows_fit_tma(scan.C) &&
                        rows_fit_tma({scan.out.data, scan.out.stride}) && rows_fit_tma(scan.z);
  return compute_capability == 90 && dtype_fits && state_fits && shape_fits && rows_fit;
}

std::size_t ssd_scan_workspace(const SsdScan& scan) {
  const DeviceProperties& device = current_device();
  if (!ssd_scan_is_tuned(scan, device.compute_capability)) return 0;
  return ssd_scan_hopper_workspace(scan, device.multiprocessors);
}

void ssd_scan(const SsdScan& scan, void* workspace, cudaStream_t stream) {
  const DeviceProperties& device = current_device();
  if (ssd_scan_is_tuned(scan, device.compute_capability)) {
    ssd_scan_hopper(scan, workspace, device.multiprocessors, stream);
  } else {
    require(scan.dt_bias == nullptr, "CUDA: a scan without tensor cores takes dt after softplus");
    ssd_scan_general(scan, stream);
  }
}

}  // namespace mamba2::cuda
