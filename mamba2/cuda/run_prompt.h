#pragma once

#include "mamba2/cuda/context.h"

/// Mixer layers of prompts with rows of 16 bits between their kernels.
namespace mamba2::cuda {

/// What a prompt's mixer reads and leaves.
struct PromptRows {
  DType dtype = DType::f32;      // of z and xBC: f32 | bf16
  DType out_dtype = DType::f32;  // f32, or bf16 where the mixer has a gated norm; bf16 where dtype is
  ConstRows z, xBC;
  ConstRows dt_raw;  // f32
  Rows out;
};

/// Whether prompt_mixer computes this: a prompt that may be rounded, on tensor cores, of a mixer that has a gated norm
/// and no MLP.
bool prompt_mixer_takes(const Context& context, const mamba2::Mixer& op);
/// The mixer with its operands elsewhere than in op.projected and op.out.
void prompt_mixer(Context& context, const mamba2::Mixer& op, const PromptRows& prompt);

/// Tokens from which on half the bytes of z, x, B and C are worth a product of its own for dt, some 10 us.
constexpr std::int64_t least_halved_tokens = 1024;

/// Whether prompt_layer computes this: such a mixer between matrices in bf16.
bool prompt_layer_takes(Context& context, const MixerLayer& layer);
/// The layer: its input normed into bf16; in_proj's product in bf16 but for dt in f32, or all in f32 where tokens are
/// few; the gated norm's result in bf16.  All of them lie in the memory of the op's operands, so they need none of
/// their own.
void prompt_layer(Context& context, const MixerLayer& layer);

}  // namespace mamba2::cuda
