// The two passes of the tensor core scan and what they share; ssd_scan_hopper.cpp puts them together.
#pragma once

#include <cuda.h>

#include "mamba2/cuda/ssd_scan.h"

namespace mamba2::cuda {

/// Tensor maps in panels of ssd_chunk_tokens rows.
struct SsdMaps {
  CUtensorMap x, B, C, out;
};

/// States between the passes.  A sequence longer than a segment has one part per part_tokens and, before them, an entry
/// for the state it starts from; sequences follow each other.
struct SsdParts {
  float* state = nullptr;  // (parts, num_heads, 64 * state_size) in the order of a warpgroup's registers
  float* decay = nullptr;  // (parts, num_heads), log2 of the part's whole decay
};

/// First pass: the state that each part alone leaves behind, decays counted backwards from its end.
void launch_ssd_parts(const SsdScan& scan, const SsdTiles& tiles, const SsdMaps& maps, const SsdParts& parts,
                      cudaStream_t stream);

/// Second pass: outputs and final states.
void launch_ssd_segments(const SsdScan& scan, const SsdTiles& tiles, const SsdMaps& maps, const SsdParts& parts,
                         cudaStream_t stream);

}  // namespace mamba2::cuda
