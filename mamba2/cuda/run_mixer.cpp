// The mixer: its parts by themselves, one token a sequence fused, and prompts with 16-bit values between the parts.
#include "mamba2/base/error.h"
#include "mamba2/cuda/causal_conv.h"
#include "mamba2/cuda/context.h"
#include "mamba2/cuda/device.h"
#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/mixer_step.h"
#include "mamba2/cuda/norm.h"
#include "mamba2/cuda/pending_step.h"
#include "mamba2/cuda/round_states.h"
#include "mamba2/cuda/rows.h"
#include "mamba2/cuda/run_prompt.h"
#include "mamba2/cuda/ssd_scan.h"
#include "mamba2/cuda/token_ops.h"

namespace mamba2::cuda {
namespace {

// A prompt shorter than a chunk of the scan on tensor cores is not worth rounding.
constexpr std::int64_t least_rounded_tokens = ssd_chunk_tokens;

/// What the columns of `projected` and the other operands are.
struct MixerViews {
  explicit MixerViews(const mamba2::Mixer& op)
      : heads(op.ssm_state.size(1)),
        head_dim(op.ssm_state.size(2)),
        state_size(op.ssm_state.size(3)),
        inner(heads * head_dim),
        groups_width(op.n_groups * state_size),
        conv_dim(inner + 2 * groups_width),
        mlp(op.out.size(1) - inner),
        z(op.projected.slice(1, 2 * mlp, inner)),
        xBC(op.projected.slice(1, 2 * mlp + inner, conv_dim)),
        dt_raw(op.projected.slice(1, 2 * mlp + inner + conv_dim, heads)),
        y(op.out.slice(1, mlp, inner)) {}

  SsdShape shape(const mamba2::Mixer& op) const {
    return {.num_heads = extent(heads, "num_heads"),
            .head_dim = extent(head_dim, "head_dim"),
            .n_groups = extent(op.n_groups, "n_groups"),
            .state_size = extent(state_size, "state_size")};
  }

  std::int64_t heads, head_dim, state_size, inner, groups_width, conv_dim, mlp;
  Tensor z, xBC, dt_raw, y;
};

void require_packed(const Tensor& tensor, const char* what) {
  require(tensor.contiguous(), "CUDA: {} has gaps between its rows", what);
}

SoftplusDt time_step_of(const Tensor& dt_raw, const Tensor& dt_bias, const TimeStepLimit& limit, const Tensor& out) {
  return {.tokens = dt_raw.size(0),
          .num_heads = extent(dt_raw.size(1), "num_heads"),
          .dt_raw = const_rows(dt_raw),
          .dtype = DType::f32,
          .bias = floats(dt_bias),
          .dt_min = static_cast<float>(limit.min),
          .dt_max = static_cast<float>(limit.max),
          .dt = out.as<float>(),
          .dt_stride = out.stride(0)};
}

CausalConv conv_of(const Tensor& x, const Tensor& weight, const Tensor& bias, mamba2::Activation act,
                   const mamba2::Batch& batch, const Tensor& conv_state) {
  require_packed(weight, "the convolution's weight");
  require_packed(conv_state, "conv_state");
  CausalConv conv;
  conv.channels = extent(x.size(1), "conv_dim");
  conv.conv_kernel = extent(weight.size(1), "conv_kernel");
  conv.activation = activation_of(act);
  conv.x = const_rows(x);
  conv.weight = floats(weight);
  conv.bias = floats(bias);
  conv.batch = batch_of(batch);
  conv.conv_state = conv_state.data;
  return conv;
}

void set_D(SsdScan& scan, const Tensor& D) {
  require_packed(D, "D");
  scan.D = floats(D);
  scan.D_head_stride = D.rank() == 2 ? static_cast<int>(D.size(1)) : 1;
  scan.D_channel_stride = D.rank() == 2 ? 1 : 0;
}

constexpr std::size_t padded(std::size_t bytes) {
  constexpr std::size_t step = 256;
  return (bytes + step - 1) / step * step;
}

/// How a scan's states are rounded.
struct Rounding {
  bool by_chance;
  const std::int32_t* positions;
  unsigned layer;
};

template <class Op>
Rounding rounding_of(const Op& op) {
  const bool by_chance = op.rounding == StateRounding::stochastic && op.ssm_state.dtype != DType::f32;
  return {by_chance, by_chance ? op.batch.positions.template as<std::int32_t>() : nullptr,
          static_cast<unsigned>(op.layer)};
}

/// Bytes of work space for a scan: a copy of its states in f32 first, where they are rounded by chance.
std::size_t copied_states(const SsdScan& scan, const Rounding& rounding) {
  if (!rounding.by_chance) return 0;
  const SsdShape& shape = scan.shape;
  return padded(static_cast<std::size_t>(scan.batch.sequences) * static_cast<std::size_t>(shape.num_heads) *
                static_cast<std::size_t>(shape.head_dim) * static_cast<std::size_t>(shape.state_size) * sizeof(float));
}
std::size_t scan_workspace(const SsdScan& scan, const Rounding& rounding) {
  return copied_states(scan, rounding) + ssd_scan_workspace(scan);
}

void run_scan(Context& context, const SsdScan& scan, const Rounding& rounding, void* workspace) {
  if (!rounding.by_chance) return cuda::ssd_scan(scan, workspace, context.stream());
  const StatesByChance states{.shape = scan.shape,
                              .batch = scan.batch,
                              .positions = rounding.positions,
                              .layer = rounding.layer,
                              .states = scan.ssm_state,
                              .copy = static_cast<float*>(workspace)};
  SsdScan in_f32 = scan;
  in_f32.ssm_state = workspace;
  in_f32.state_dtype = DType::f32;
  in_f32.batch.slots = nullptr;
  widen_states(states, context.stream());
  cuda::ssd_scan(in_f32, static_cast<std::byte*>(workspace) + copied_states(scan, rounding), context.stream());
  round_states(states, context.stream());
}

void mlp_part(Context& context, const mamba2::Mixer& op, std::int64_t mlp) {
  if (mlp == 0) return;
  gated_activation(context, {.value = op.projected.slice(1, mlp, mlp),
                             .gate = op.projected.slice(1, 0, mlp),
                             .act = mamba2::Activation::silu,
                             .out = op.out.slice(1, 0, mlp)});
}

GatedRmsNorm norm_of(const mamba2::Mixer& op, const MixerViews& views) {
  GatedRmsNorm norm;
  norm.rows = op.projected.size(0);
  norm.width = extent(views.inner, "intermediate_size");
  norm.groups = static_cast<int>(views.inner / op.norm_group_size);
  norm.norm_before_gate = op.order == GateOrder::norm_first;
  norm.eps = static_cast<float>(op.norm_eps);
  norm.weight = floats(op.norm_weight);
  norm.out = rows(views.y);
  return norm;
}

/// Whether a norm of whole rows waits for the product that follows, which then reads its input from elsewhere.
bool norm_waits(const mamba2::Mixer& op, const MixerViews& views) {
  return !op.norm_weight.empty() && op.order == GateOrder::gate_first && views.inner == op.norm_group_size;
}

/// One token of every sequence.
MixerStep step_of(Context& context, const mamba2::Mixer& op, const MixerViews& views) {
  MixerStep step;
  step.shape = views.shape(op);
  step.conv_kernel = extent(op.conv_weight.size(1), "conv_kernel");
  step.zxBCdt = const_rows(views.z);
  step.conv_weight = floats(op.conv_weight);
  step.conv_bias = floats(op.conv_bias);
  step.dt_bias = floats(op.dt_bias);
  step.dt_min = static_cast<float>(op.limit.min);
  step.dt_max = static_cast<float>(op.limit.max);
  step.A_log = floats(op.A_log);
  step.D = floats(op.D);
  step.gate = op.norm_weight.empty() || op.order == GateOrder::gate_first;
  step.sequences = static_cast<int>(op.batch.sequences);
  step.slots = op.batch.slots.as<std::int32_t>();
  step.conv_state = op.conv_state.as<float>();
  step.ssm_state = op.ssm_state.data;
  step.state_dtype = op.ssm_state.dtype;
  step.out = rows(norm_waits(op, views) ? op.y : views.y);
  step.arrivals = context.arrivals();
  const Rounding rounding = rounding_of(op);
  step.rounding = {.positions = rounding.positions, .layer = rounding.layer};
  step.state_is_settled = context.follows_product;
  return step;
}

void require_packed_step(const mamba2::Mixer& op) {
  require_packed(op.conv_weight, "the convolution's weight");
  require_packed(op.conv_state, "conv_state");
  require_packed(op.ssm_state, "ssm_state");
}

/// What follows the step's kernel.
void finish_step(Context& context, const mamba2::Mixer& op, const MixerViews& views) {
  mlp_part(context, op, views.mlp);
  if (norm_waits(op, views)) {
    context.let_wait({.rows = op.batch.sequences,
                      .width = extent(views.inner, "intermediate_size"),
                      .x = const_rows(op.y),
                      .weight = floats(op.norm_weight),
                      .eps = static_cast<float>(op.norm_eps),
                      .out = rows(views.y)});
  } else if (!op.norm_weight.empty()) {
    GatedRmsNorm norm = norm_of(op, views);
    norm.y = const_rows(views.y);
    if (op.order == GateOrder::norm_first) norm.z = const_rows(views.z);
    cuda::gated_rms_norm(norm, context.stream());
  }
}

/// One token of every sequence, by one kernel before the norm.
bool fused_step(Context& context, const mamba2::Mixer& op, const MixerViews& views) {
  const mamba2::Batch& batch = op.batch;
  if (batch.tokens != batch.sequences || batch.longest != 1 || batch.sequences * op.n_groups > most_fused_groups)
    return false;
  if (op.act != mamba2::Activation::silu || op.D.rank() != 1) return false;
  MixerStep step = step_of(context, op, views);
  if (static_cast<std::int64_t>(op.ssm_state[0].bytes()) * batch.sequences >= separate_convolution_bytes &&
      op.xBC.contiguous())
    step.convolved = op.xBC.as<float>();
  if (!mixer_step_is_tuned(step)) return false;
  require_packed_step(op);
  mixer_step(step, context.stream());
  finish_step(context, op, views);
  return true;
}

PendingRing ring_of(const PendingInputs& pending) {
  require(pending.input.size(2) == pending_room, "CUDA: there is room for {} pending inputs, expected {}",
          pending.input.size(2), pending_room);
  require_packed(pending.input, "pending.input");
  require_packed(pending.B, "pending.B");
  require_packed(pending.log_decay, "pending.log_decay");
  return {.input = pending.input.data,
          .B = pending.B.data,
          .log_decay = pending.log_decay.as<float>(),
          .since = pending.since.as<std::int32_t>()};
}

/// The same with the token's inputs left pending.
void step_with_pending(Context& context, const mamba2::Mixer& op, const MixerViews& views) {
  PendingStep pending;
  pending.step = step_of(context, op, views);
  pending.step.convolved = op.xBC.as<float>();
  pending.ring = ring_of(op.pending);
  pending.positions = op.batch.positions.as<std::int32_t>();
  pending.layer = extent(op.layer, "the layer");
  if (op.D.rank() == 2) {
    pending.D_head_stride = extent(views.head_dim, "head_dim");
    pending.D_channel_stride = 1;
  }
  require_packed_step(op);
  require_packed(op.D, "D");
  require_packed(op.xBC, "xBC");
  pending_step(pending, context.stream());
  finish_step(context, op, views);
}

/// A tensor's memory as rows in bf16.
Rows as_bf16(const Tensor& tensor) {
  return {tensor.data, tensor.contiguous() ? tensor.size(1) : 2 * tensor.stride(0)};
}

/// The scan of a prompt on tensor cores: x, B, C and y in bf16, in the op's own work space; dt is still to be named.
SsdScan rounded_scan(const mamba2::Mixer& op, const MixerViews& views) {
  const Rows xBC = as_bf16(op.xBC);
  const auto* const first = static_cast<const std::uint16_t*>(xBC.data);
  SsdScan scan;
  scan.shape = views.shape(op);
  scan.dtype = DType::bf16;
  scan.x = {first, xBC.stride};
  scan.B = {first + views.inner, xBC.stride};
  scan.C = {first + views.inner + views.groups_width, xBC.stride};
  scan.dt_bias = floats(op.dt_bias);
  scan.dt_min = static_cast<float>(op.limit.min);
  scan.dt_max = static_cast<float>(op.limit.max);
  scan.A_log = floats(op.A_log);
  set_D(scan, op.D);
  scan.batch = batch_of(op.batch);
  require_packed(op.ssm_state, "ssm_state");
  scan.ssm_state = op.ssm_state.data;
  scan.state_dtype = op.ssm_state.dtype;
  scan.out = as_bf16(op.y);
  return scan;
}

bool rounds_prompt(const Context& context, const mamba2::Mixer& op, const MixerViews& views) {
  return context.rounds() && op.batch.tokens >= least_rounded_tokens &&
         ssd_scan_is_tuned(rounded_scan(op, views), current_device().compute_capability);
}

/// A prompt's mixer but for its MLP.
void run_rounded(Context& context, const mamba2::Mixer& op, const MixerViews& views, const PromptRows& prompt) {
  SsdScan scan = rounded_scan(op, views);
  scan.dt = static_cast<const float*>(prompt.dt_raw.data);
  scan.dt_stride = prompt.dt_raw.stride;
  const Rounding rounding = rounding_of(op);
  void* const workspace = context.scratch(scan_workspace(scan, rounding));
  CausalConv conv = conv_of(views.xBC, op.conv_weight, op.conv_bias, op.act, op.batch, op.conv_state);
  conv.dtype = prompt.dtype;
  conv.x = prompt.xBC;
  conv.out_dtype = DType::bf16;
  conv.out = as_bf16(op.xBC);
  cuda::causal_conv(conv, context.stream());
  run_scan(context, scan, rounding, workspace);
  const ConstRows y{scan.out.data, scan.out.stride};
  if (op.norm_weight.empty())
    return activate({.rows = op.batch.tokens,
                     .width = extent(views.inner, "intermediate_size"),
                     .value = y,
                     .gate = prompt.z,
                     .value_dtype = DType::bf16,
                     .activation = Activation::silu,
                     .out = prompt.out},
                    context.stream());
  GatedRmsNorm norm = norm_of(op, views);
  norm.y_dtype = DType::bf16;
  norm.z_dtype = prompt.dtype;
  norm.out_dtype = prompt.out_dtype;
  norm.y = y;
  norm.z = prompt.z;
  norm.out = prompt.out;
  cuda::gated_rms_norm(norm, context.stream());
}

/// Many tokens, with x, B, C and y rounded to bf16 for the scan on tensor cores.
bool rounded_prompt(Context& context, const mamba2::Mixer& op, const MixerViews& views) {
  if (!rounds_prompt(context, op, views)) return false;
  run_rounded(context, op, views,
              {.dtype = DType::f32,
               .out_dtype = DType::f32,
               .z = const_rows(views.z),
               .xBC = const_rows(views.xBC),
               .dt_raw = const_rows(views.dt_raw),
               .out = rows(views.y)});
  mlp_part(context, op, views.mlp);
  return true;
}

}  // namespace

void causal_conv(Context& context, const mamba2::CausalConv& op) {
  CausalConv conv = conv_of(op.x, op.weight, op.bias, op.act, op.batch, op.conv_state);
  conv.out = rows(op.out);
  causal_conv(conv, context.stream());
}

void time_step(Context& context, const mamba2::TimeStep& op) {
  softplus_dt(time_step_of(op.dt_raw, op.dt_bias, op.limit, op.out), context.stream());
}

void ssd_scan(Context& context, const mamba2::SsdScan& op) {
  require_packed(op.ssm_state, "ssm_state");
  SsdScan scan;
  scan.shape = {.num_heads = extent(op.x.size(1), "num_heads"),
                .head_dim = extent(op.x.size(2), "head_dim"),
                .n_groups = extent(op.B.size(1), "n_groups"),
                .state_size = extent(op.B.size(2), "state_size")};
  scan.x = const_rows(op.x);
  scan.B = const_rows(op.B);
  scan.C = const_rows(op.C);
  scan.dt = op.dt.as<float>();
  scan.dt_stride = op.dt.stride(0);
  scan.A_log = floats(op.A_log);
  set_D(scan, op.D);
  scan.batch = batch_of(op.batch);
  scan.ssm_state = op.ssm_state.data;
  scan.state_dtype = op.ssm_state.dtype;
  scan.out = rows(op.out);
  if (scan.batch.tokens == 0) return;
  const Rounding rounding = rounding_of(op);
  run_scan(context, scan, rounding, context.scratch(scan_workspace(scan, rounding)));
}

void settle_state(Context& context, const mamba2::SettleState& op) {
  require_packed(op.ssm_state, "ssm_state");
  SettleStates settle;
  settle.shape = {.num_heads = extent(op.ssm_state.size(1), "num_heads"),
                  .head_dim = extent(op.ssm_state.size(2), "head_dim"),
                  .n_groups = extent(op.pending.B.size(1), "n_groups"),
                  .state_size = extent(op.ssm_state.size(3), "state_size")};
  settle.sequences = extent(op.slots.size(0), "the number of slots");
  settle.slots = op.slots.as<std::int32_t>();
  settle.ends = op.ends.as<std::int32_t>();
  settle.ring = ring_of(op.pending);
  settle.ssm_state = op.ssm_state.data;
  settle.state_dtype = op.ssm_state.dtype;
  settle.by_chance = op.rounding == StateRounding::stochastic;
  settle.layer = extent(op.layer, "the layer");
  settle_states(settle, context.stream());
}

bool fused_mixer(Context& context, const mamba2::Mixer& op) {
  if (op.projected.size(0) == 0) return false;
  const MixerViews views(op);
  if (!op.pending.since.empty()) {
    step_with_pending(context, op, views);
    return true;
  }
  return fused_step(context, op, views) || rounded_prompt(context, op, views);
}

bool prompt_mixer_takes(const Context& context, const mamba2::Mixer& op) {
  const MixerViews views(op);
  const bool steps = op.batch.tokens == op.batch.sequences && op.batch.longest == 1;
  return !steps && views.mlp == 0 && !op.norm_weight.empty() && op.square_sums.empty() &&
         rounds_prompt(context, op, views);
}

void prompt_mixer(Context& context, const mamba2::Mixer& op, const PromptRows& prompt) {
  const MixerViews views(op);
  run_rounded(context, op, views, prompt);
}

}  // namespace mamba2::cuda
