#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string_view>

#include "mamba2/ops/token_rule.h"
#include "mamba2/tensor/tensor.h"

/// The operations that a backend provides, one struct of named arguments each.  Unless said otherwise every tensor lies
/// on the backend's device, activations have the backend's activation dtype, the innermost dimension is contiguous,
/// outer strides are free, and outputs must not overlap inputs.  `Backend::run` checks shapes and dtypes once, before
/// dispatch.  Dimensions use the names of the Hugging Face config.
namespace mamba2 {

class PreparedWeight;

/// Functions of one number.  gelu is exact (erf), gelu_tanh the tanh approximation ("gelu_new").
enum class Activation : std::uint8_t { none, silu, gelu, gelu_tanh, relu, tanh, sigmoid };

/// Tokens of several sequences end to end; sequence s owns tokens [sequence_start[s], sequence_start[s + 1]) and the
/// state slot slots[s].  No two sequences share a slot.  The descriptors lie on the device, so a recorded step can be
/// replayed with new contents; the counts are fixed when it is recorded.
struct Batch {
  std::int64_t tokens = 0;
  std::int64_t sequences = 0;
  std::int64_t longest = 0;  ///< tokens of the longest sequence, or a bound of it
  Tensor sequence_start;     ///< (sequences + 1) i32, rising from 0 to tokens
  Tensor slots;              ///< (sequences) i32
  Tensor positions;          ///< (tokens) i32: how many tokens of its sequence came before, in this batch and earlier
};

/// out[t] = weight[ids[t]].  ids (tokens) i32 in [0, vocab_size); weight (vocab_size, hidden_size); out (tokens,
/// hidden_size).
struct Embedding {
  Tensor ids;
  const PreparedWeight* weight = nullptr;
  Tensor out;
};

/// out = add + x weight^T + bias.  x (rows, in); weight (out, in); bias (out) or absent; add (rows, out) or absent, may
/// be `out` itself; out (rows, out).
struct Linear {
  Tensor x;
  const PreparedWeight* weight = nullptr;
  Tensor bias;
  Tensor add;
  Tensor out;
};

/// out = x / sqrt(mean(x^2) + eps) * weight over the last dimension.  x, out (rows, width); weight (width).
/// Zhang and Sennrich 2019.
struct RmsNorm {
  Tensor x, weight;
  double eps = 1e-5;
  Tensor out;
};

/// Which comes first in a gated norm: norm(y * silu(z)), or norm(y) * silu(z).
enum class GateOrder : std::uint8_t { gate_first, norm_first };

/// RMSNorm of each group of group_size channels, gated by silu(z).  y, z, out (tokens, intermediate_size), out may be
/// y; weight (intermediate_size), or absent: then out = y * silu(z).  Dao and Gu 2024, section 7.2 (the extra norm
/// before out_proj).
struct GatedRmsNorm {
  Tensor y, z, weight;
  std::int64_t group_size = 0;
  double eps = 1e-5;
  GateOrder order = GateOrder::gate_first;
  Tensor out;
};

/// Depthwise causal convolution over time, then the activation:
/// out[t, c] = act(bias[c] + sum_k weight[c, k] x[t - (conv_kernel - 1) + k, c]); what lies before a sequence's first
/// token comes from conv_state.  x, out (tokens, conv_dim); weight (conv_dim, conv_kernel); bias (conv_dim) or absent;
/// conv_state (slots, conv_dim, conv_kernel - 1) oldest first, read and replaced at batch.slots.
struct CausalConv {
  Tensor x, weight, bias;
  Activation act = Activation::none;
  Batch batch;
  Tensor conv_state;
  Tensor out;
};

/// Lower and upper bound of dt after softplus.
struct TimeStepLimit {
  double min = 0.0;
  double max = std::numeric_limits<double>::infinity();
  bool operator==(const TimeStepLimit&) const = default;
};

/// out = clamp(softplus(dt_raw + dt_bias), limit).  dt_raw (tokens, num_heads); dt_bias (num_heads); out (tokens,
/// num_heads) f32 or, where the activations are f64, f64.
struct TimeStep {
  Tensor dt_raw, dt_bias;
  TimeStepLimit limit;
  Tensor out;
};

/// How an ssm_state of fewer than 32 bits is rounded when it is written.  stochastic: up or down by chance, in
/// proportion to the distance to each neighbour, so that updates below half a unit in the last place count on average.
/// The chance depends on nothing but the place in the model and in the sequence: to the f32 bits of element n of row p
/// of a head, written after the token at `position`, the low (n even) or high (n odd) 16 bits of word (n % 64) / 16 of
///   philox(state_rounding_key, {8 (p ceil(state_size / 64) + n / 64) + (n % 16) / 2, head, position, layer})
/// are added before the lower 16 bits are cut off (mamba2/base/random.h).
enum class StateRounding : std::uint8_t { nearest, stochastic };
constexpr std::uint32_t state_rounding_key[2] = {0x6D616D62, 0x61322E63};

/// What the last tokens of each slot brought and its ssm_state does not hold yet: a decoded token's cost is the state's
/// traffic, so a backend may read a state at every token and write it now and then (Backend::pending_room).  The token
/// at position u of a slot lies at u % room.  Before the token at `position`, head h of a layer holds those before
///
///   f = max(since[slot], the last position of those up to this one at which (position + h + layer) % room is 0)
///
/// so that of `room` heads one is written at each token, whichever sequences decode together.  With S as it is held and
/// u the pending tokens from f on, the state is
///
///   exp(sum_u log_decay_u) S + sum_u exp(sum_{v > u} log_decay_v) input_u B_u^T
struct PendingInputs {
  Tensor input;      ///< (slots, num_heads, room, head_dim), dtype of ssm_state: dt x
  Tensor B;          ///< (slots, n_groups, room, state_size), likewise
  Tensor log_decay;  ///< (slots, num_heads, room) f32: dt A
  Tensor since;      ///< (slots) i32: the position from which on tokens were left pending
};

/// Brings the states of some slots up to date: ends[i] is how many tokens slots[i] has seen.  slots, ends (n) i32; the
/// rest as in Mixer.  Nothing is pending there once since[slots[i]] is ends[i], which the caller sees to.
struct SettleState {
  PendingInputs pending;
  Tensor ssm_state;
  Tensor slots, ends;
  StateRounding rounding = StateRounding::nearest;
  std::int64_t layer = 0;
};

/// State space dual scan.  Dao and Gu 2024, section 6 (block decomposition) and section 3.
///
///   S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T,   y_t = S_t C_t + D x_t,   A = -exp(A_log)
///
/// x, out (tokens, num_heads, head_dim); dt (tokens, num_heads) after bias, softplus and limit; A_log (num_heads);
/// D (num_heads) or (num_heads, head_dim); B, C (tokens, n_groups, state_size), head h uses group
/// h / (num_heads / n_groups); ssm_state (slots, num_heads, head_dim, state_size), read and replaced at batch.slots.
/// Sequences of any length, 0 and 1 included.  A_log, D and dt are f32 (f64 where the activations are).  A state of
/// fewer bits is computed in f32; how often it is rounded on the way through several tokens is the backend's choice, y
/// is taken before.  rounding and layer do not count for a state in f32; stochastic rounding reads batch.positions.
struct SsdScan {
  Tensor x, dt, A_log, B, C, D;
  Batch batch;
  Tensor ssm_state;
  StateRounding rounding = StateRounding::nearest;
  std::int64_t layer = 0;
  Tensor out;
};

/// out = value * act(gate), element by element.  value, gate, out (rows, width).
struct GatedActivation {
  Tensor value, gate;
  Activation act = Activation::silu;
  Tensor out;
};

/// out = act(x), element by element.  x, out (rows, width), out may be x.
struct Activate {
  Tensor x;
  Activation act = Activation::silu;
  Tensor out;
};

/// All of a Mamba-2 mixer between its two projections, as one op so that a backend may fuse it; the default calls the
/// parts: CausalConv, TimeStep, SsdScan, GatedRmsNorm and, where the mixer holds a gated MLP, GatedActivation.
///
/// projected (tokens, 2 mlp + 2 intermediate_size + 2 n_groups state_size + num_heads), columns [z0, x0 (mlp each), z,
/// x, B, C, dt]; out (tokens, mlp + intermediate_size), columns [silu(z0) x0, y].  mlp is out's width less
/// intermediate_size = num_heads head_dim.  norm_weight absent: y = y silu(z).
/// rounding and layer as in SsdScan.
/// square_sums present: this is a rank's share of the heads, and the norm's groups are those of NormOverRanks.
/// pending: its tensors absent, or, for a batch of one token of each sequence at batch.positions, room for what the
/// tokens bring; where Backend::pending_room says so alone.
/// Work space, contents free: xBC (tokens, conv_dim), dt (tokens, num_heads), y (tokens, intermediate_size).
struct Mixer {
  Tensor projected;
  Tensor conv_weight, conv_bias;
  Activation act = Activation::silu;
  Tensor dt_bias, A_log, D;
  TimeStepLimit limit;
  std::int64_t n_groups = 1;
  Tensor norm_weight;
  std::int64_t norm_group_size = 0;
  double norm_eps = 1e-5;
  std::int64_t norm_first_channel = 0;
  Tensor square_sums = {};
  GateOrder order = GateOrder::gate_first;
  Batch batch;
  Tensor conv_state, ssm_state;
  StateRounding rounding = StateRounding::nearest;
  std::int64_t layer = 0;
  PendingInputs pending = {};
  Tensor xBC, dt, y;
  Tensor out;
};

/// A layer that is nothing but a mixer: norm, in_proj, mixer, and out_proj added to the residual stream norm.x.
struct MixerLayer {
  RmsNorm norm;
  Linear in_proj;
  Mixer mixer;
  Linear out_proj;
};

/// Such layers one after the other, as one op so that a backend may fuse them; the default calls their parts in order.
/// layers lie on the host and are needed during the call alone.  What a layer's ops hand to each other within it is
/// work space: its contents are free afterwards.
struct MixerLayers {
  std::span<const MixerLayer> layers;
};

/// What a mixer does to single tokens of several sequences.
struct MixerStepShape {
  std::int64_t sequences = 0;
  std::int64_t num_heads = 0, head_dim = 0, n_groups = 0, state_size = 0, conv_kernel = 0;
  Activation act = Activation::silu;
  DType state_dtype = DType::f32;
};

enum class RopeScaling : std::uint8_t { none, linear, dynamic };

struct RopeParameters {
  std::int64_t rotary_dim = 0;  ///< even; the first rotary_dim elements of a head turn, the rest stay
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1.0;
  std::int64_t max_position_embeddings = 2048;
};

/// Rotary position embedding in the GPT-NeoX layout (element i turns with i + rotary_dim / 2), in place.  Su et al.
/// 2021. linear divides positions by factor; dynamic raises theta for a sequence that reaches past
/// max_position_embeddings, by its length up to this batch (NTK-aware scaling); keys cached before keep the rotation
/// they were written with. x (tokens, heads, head_dim).
struct Rope {
  Tensor x;
  Batch batch;
  RopeParameters parameters;
};

/// Causal attention with grouped key and value heads.  Keys and values are appended to the caches at their positions,
/// then out[t] = softmax(scale q[t] K^T) V over positions 0 .. positions[t].
/// q, out (tokens, num_attention_heads, head_dim); k, v (tokens, num_key_value_heads, head_dim);
/// k_cache, v_cache (slots, capacity, num_key_value_heads, head_dim).
struct Attention {
  Tensor q, k, v;
  double scale = 1.0;
  Batch batch;
  Tensor k_cache, v_cache;
  Tensor out;
};

/// out[i] = x[rows[i]].  x (n, width); rows (m) i32; out (m, width).
struct GatherRows {
  Tensor x, rows, out;
};

/// out[i] = logsumexp(logits[i]) - logits[i, labels[i]], and 0 where labels[i] is -100.  logits (n, classes); labels
/// (n) i32; out (n) f32, or f64 where the activations are.
struct CrossEntropy {
  Tensor logits, labels, out;
};

/// out[i] = the token that rules[i] chooses from logits[i], or one of the refusals below.  For backends that choose
/// tokens (Backend::chooses_tokens).  logits (rows, vocab_size), work space: its contents are free afterwards; rules
/// (rows, token_rule_words) i32, TokenRules as words; steps (rows) i32: how many tokens of its sequence were chosen
/// before, one more afterwards; history (rows, n) i32: the tokens of its sequence, which repetition_penalty goes by,
/// and -1 for none, or absent where no rule has a penalty; positions (n) i32 or absent: each one more afterwards; out
/// (rows) i32.
struct ChooseToken {
  Tensor logits, rules, steps, history, positions, out;
};

// What ranks do together that compute one model (Backend::join).  Each rank calls these with operands of its own.

/// out = add + the sum of all ranks' x, with the same bits on every rank whose add is the same.  x, add, out (rows,
/// width), x without gaps, its contents are free afterwards; out may be add.  A backend that rounds the inputs of large
/// products may round x likewise.
struct AddOverRanks {
  Tensor x, add, out;
};

/// RmsNorm of groups of group_size channels that reach over several ranks, each of which has some of the channels:
/// column c of x is channel first_channel + c.  x, out (rows, width), out may be x; weight (width); square_sums (rows,
/// number of groups on all ranks), work space without gaps.
struct NormOverRanks {
  Tensor x, weight;
  std::int64_t group_size = 0, first_channel = 0;
  double eps = 1e-5;
  Tensor square_sums, out;
};

/// x becomes what rank 0 has there.  x (n) i32, without gaps.
struct Broadcast {
  Tensor x;
};

/// The name in a config ("silu", "swish", "gelu", "gelu_new", ...), or nothing.
std::optional<Activation> parse_activation(std::string_view name);
std::string_view name(Activation act);

}  // namespace mamba2
