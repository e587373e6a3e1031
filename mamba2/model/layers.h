#pragma once

#include <span>
#include <vector>

#include "mamba2/model/cache.h"
#include "mamba2/model/split.h"
#include "mamba2/model/weights.h"
#include "mamba2/ops/backend.h"

namespace mamba2 {

/// Device buffers of one piece of a forward pass, reused from call to call; rows are tokens.
struct Activations {
  std::int64_t tokens = 0;         ///< rows that the buffers have
  DeviceTensor hidden;             ///< (tokens, hidden_size): the residual stream
  DeviceTensor normed;             ///< (tokens, hidden_size)
  DeviceTensor projected;          ///< (tokens, in_proj_size)
  DeviceTensor xBC;                ///< (tokens, conv_dim)
  DeviceTensor dt;                 ///< (tokens, num_heads)
  DeviceTensor y;                  ///< (tokens, intermediate_size)
  DeviceTensor square_sums;        ///< (tokens, norm_groups), where the gated norm's groups reach over ranks
  DeviceTensor mixed;              ///< (tokens, mixer_mlp_size + intermediate_size)
  DeviceTensor qkv;                ///< (tokens, attention_qkv_size)
  DeviceTensor qkv_conv;           ///< (tokens, attention_qkv_size), where the attention has a convolution
  DeviceTensor attended;           ///< (tokens, num_attention_heads * attention_head_dim)
  DeviceTensor mlp_in;             ///< (tokens, 2 * padded_mlp_size)
  DeviceTensor mlp_out;            ///< (tokens, padded_mlp_size)
  std::vector<MixerLayer> mixers;  ///< on the host: those that are to run together
};

/// Bytes that the buffers take for a token.
std::int64_t activation_bytes_per_token(const ModelPart& part, const Backend& backend);

/// Allocates the buffers for so many tokens, unless they have them already.
void make_room(Activations& activations, std::int64_t tokens, const ModelPart& part, Backend& backend);

/// Sequences of a piece that stand side by side and whose mixers do the same.
struct MixerPart {
  Batch batch;
  std::int64_t first_row = 0;   ///< of the piece
  bool leaves_pending = false;  ///< one token of each, whose inputs stay beside the states (PendingInputs)
};

/// Layers [begin, end) over a batch: norm, mixer or attention, and the MLP where the model has one; each adds to
/// a.hidden, the first batch.tokens rows of which are read and replaced, as are the layers' states at batch.slots.
/// mixer_parts: of the batch, what mixers take at a time.  Where a model is split, a.hidden is the same on all ranks
/// before and after.
void forward_layers(std::int64_t begin, std::int64_t end, const ModelWeights& weights, const ModelPart& part,
                    Activations& a, Mamba2Cache& cache, const Batch& batch, std::span<const MixerPart> mixer_parts,
                    Backend& backend);

}  // namespace mamba2
