#pragma once

#include <cstdint>

#include "mamba2/cuda/linear.h"
#include "mamba2/ops/ops.h"

namespace mamba2::cuda {

/// Sequences times groups that a batch of single tokens may have to be fused.
constexpr std::int64_t most_fused_groups = 65535;

/// Tokens whose inputs have room beside a state.  Eight lanes share a row of it, each stands for one; and from eight on
/// what is read of the inputs grows by as much as fewer writes save.
constexpr int pending_room = 8;

/// Whether the device has what the kernel is made of.
constexpr bool pending_step_is_tuned(int compute_capability) {
  return compute_capability == 90;
}

/// Whether a batch of single tokens is to leave its inputs pending, where the device can: only shapes that the kernel
/// is made for, states of least_bytes together in a layer, and more sequences than have the same bits alone.
inline bool pending_pays(const MixerStepShape& shape, std::int64_t least_bytes) {
  const std::int64_t elements = shape.sequences * shape.num_heads * shape.head_dim * shape.state_size;
  const bool tuned = shape.head_dim == 64 && (shape.state_size == 64 || shape.state_size == 128) &&
                     shape.conv_kernel >= 2 && shape.conv_kernel <= 4 && shape.act == mamba2::Activation::silu &&
                     (shape.state_dtype == DType::f32 || shape.state_dtype == DType::bf16);
  return tuned && shape.sequences > few_rows_limit && shape.sequences <= most_fused_groups &&
         elements * static_cast<std::int64_t>(element_size(shape.state_dtype)) >= least_bytes;
}

}  // namespace mamba2::cuda
