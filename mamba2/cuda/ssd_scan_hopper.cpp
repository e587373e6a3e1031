// The tensor core scan: tiles, tensor maps and workspace, then its two passes.
#include "mamba2/cuda/ssd_hopper.h"
#include "mamba2/cuda/tensor_map.h"

namespace mamba2::cuda {
namespace {

std::size_t state_elements(const SsdScan& scan, const SsdTiles& tiles) {
  return static_cast<std::size_t>(tiles.parts_bound) * static_cast<std::size_t>(scan.shape.num_heads) *
         static_cast<std::size_t>(scan.shape.head_dim) * static_cast<std::size_t>(scan.shape.state_size);
}

}  // namespace

std::size_t ssd_scan_hopper_workspace(const SsdScan& scan, int multiprocessors) {
  const SsdTiles tiles = ssd_tiles(scan.shape, scan.batch, multiprocessors);
  const std::size_t decays =
      static_cast<std::size_t>(tiles.parts_bound) * static_cast<std::size_t>(scan.shape.num_heads);
  return (state_elements(scan, tiles) + decays) * sizeof(float);
}

void ssd_scan_hopper(const SsdScan& scan, void* workspace, int multiprocessors, cudaStream_t stream) {
  if (scan.batch.tokens == 0) return;
  const SsdTiles tiles = ssd_tiles(scan.shape, scan.batch, multiprocessors);
  const std::int64_t inner = static_cast<std::int64_t>(scan.shape.num_heads) * scan.shape.head_dim;
  const std::int64_t shared = static_cast<std::int64_t>(scan.shape.n_groups) * scan.shape.state_size;
  const std::int64_t tokens = scan.batch.tokens;
  const SsdMaps maps{.x = panel_map(scan.x, scan.dtype, inner, tokens, ssd_chunk_tokens),
                     .B = panel_map(scan.B, scan.dtype, shared, tokens, ssd_chunk_tokens),
                     .C = panel_map(scan.C, scan.dtype, shared, tokens, ssd_chunk_tokens),
                     .out = panel_map({scan.out.data, scan.out.stride}, scan.dtype, inner, tokens, ssd_chunk_tokens)};
  SsdParts parts;
  parts.state = static_cast<float*>(workspace);
  parts.decay = parts.state + state_elements(scan, tiles);
  if (tiles.parts_bound > 0) launch_ssd_parts(scan, tiles, maps, parts, stream);
  launch_ssd_segments(scan, tiles, maps, parts, stream);
}

}  // namespace mamba2::cuda
