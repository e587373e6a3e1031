#pragma once

#include "mamba2/cuda/decode_layers.h"
#include "mamba2/ops/backend.h"

namespace mamba2::cuda {

/// The same elements in the same order.
bool same_place(const Tensor& one, const Tensor& other);
/// Whether a layer's ops hand to each other what they leave: norm, in_proj, mixer, out_proj.
bool hands_on(const MixerLayer& layer);

/// The device matrix of a prepared weight.
using MatrixOf = const Tensor& (*)(const PreparedWeight& weight);

/// Whether the layers are what one kernel can run as a step of decoding: one token of each sequence, mixers all alike,
/// with bf16 matrices, a gated norm of whole rows and no biases of matrices.  Then describes them in `to`, all but
/// to.exchange.  What the device has room for is another question (decode_layers_takes).
bool describe_layers(const mamba2::MixerLayers& op, MatrixOf matrix_of, DecodeLayers& to);

/// Whether one kernel for all layers was measured to be faster than three for each.
bool decode_layers_pays(const DecodeShape& shape);

}  // namespace mamba2::cuda
