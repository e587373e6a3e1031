// Ops on rows, and attention.
#include "mamba2/base/error.h"
#include "mamba2/cuda/attention.h"
#include "mamba2/cuda/choose_token.h"
#include "mamba2/cuda/context.h"
#include "mamba2/cuda/device.h"
#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/norm.h"
#include "mamba2/cuda/rows.h"

namespace mamba2::cuda {
namespace {

Heads heads_of(const Tensor& tensor) {
  return {.data = tensor.as<float>(), .token_stride = tensor.stride(0), .head_stride = tensor.stride(1)};
}

/// out = value * act(gate), or act(gate) where value is absent.
void run_activation(Context& context, const Tensor& value, const Tensor& gate, mamba2::Activation act,
                    const Tensor& out) {
  activate({.rows = gate.size(0),
            .width = extent(gate.size(1), "a row's width"),
            .value = const_rows(value),
            .gate = const_rows(gate),
            .activation = activation_of(act),
            .out = rows(out)},
           context.stream());
}

}  // namespace

void rms_norm(Context& context, const mamba2::RmsNorm& op) {
  context.let_wait({.rows = op.x.size(0),
                    .width = extent(op.x.size(1), "hidden_size"),
                    .x = const_rows(op.x),
                    .weight = floats(op.weight),
                    .eps = static_cast<float>(op.eps),
                    .out = rows(op.out)});
  if (op.x.size(0) == 0) context.finish_norm();
}

void gated_rms_norm(Context& context, const mamba2::GatedRmsNorm& op) {
  if (op.weight.empty())
    return gated_activation(context, {.value = op.y, .gate = op.z, .act = mamba2::Activation::silu, .out = op.out});
  GatedRmsNorm norm;
  norm.rows = op.y.size(0);
  norm.width = extent(op.y.size(1), "intermediate_size");
  norm.groups = static_cast<int>(op.y.size(1) / op.group_size);
  norm.norm_before_gate = op.order == GateOrder::norm_first;
  norm.eps = static_cast<float>(op.eps);
  norm.y = const_rows(op.y);
  norm.z = const_rows(op.z);
  norm.weight = floats(op.weight);
  norm.out = rows(op.out);
  gated_rms_norm(norm, context.stream());
}

void gated_activation(Context& context, const mamba2::GatedActivation& op) {
  run_activation(context, op.value, op.gate, op.act, op.out);
}

void activate(Context& context, const mamba2::Activate& op) {
  run_activation(context, {}, op.x, op.act, op.out);
}

void gather_rows(Context& context, const mamba2::GatherRows& op) {
  gather_rows({.count = op.rows.size(0),
               .source_rows = op.x.size(0),
               .width = extent(op.x.size(1), "a row's width"),
               .rows = op.rows.as<std::int32_t>(),
               .x = const_rows(op.x),
               .out = rows(op.out)},
              context.stream());
}

void cross_entropy(Context& context, const mamba2::CrossEntropy& op) {
  cross_entropy({.rows = op.logits.size(0),
                 .classes = extent(op.logits.size(1), "the number of classes"),
                 .logits = const_rows(op.logits),
                 .labels = op.labels.as<std::int32_t>(),
                 .out = op.out.as<float>(),
                 .out_stride = op.out.stride(0)},
                context.stream());
}

void choose_token(Context& context, const mamba2::ChooseToken& op) {
  require(op.logits.size(1) <= choose_token_largest_vocabulary,
          "CUDA: the vocabulary has {} tokens, expected at most {}", op.logits.size(1),
          choose_token_largest_vocabulary);
  const bool has_history = !op.history.empty();
  choose_token({.rows = op.logits.size(0),
                .vocab_size = extent(op.logits.size(1), "vocab_size"),
                .logits = rows(op.logits),
                .rules = static_cast<const TokenRule*>(op.rules.data),
                .history = has_history ? op.history.as<std::int32_t>() : nullptr,
                .history_stride = has_history ? op.history.stride(0) : 0,
                .history_length = has_history ? extent(op.history.size(1), "a history's length") : 0,
                .steps = op.steps.as<std::int32_t>(),
                .positions = op.positions.empty() ? nullptr : op.positions.as<std::int32_t>(),
                .moved = op.positions.empty() ? 0 : extent(op.positions.elements(), "the number of positions"),
                .out = op.out.as<std::int32_t>()},
               context.stream());
}

void rope(Context& context, const mamba2::Rope& op) {
  const RopeParameters& p = op.parameters;
  rope({.x = heads_of(op.x),
        .heads = extent(op.x.size(1), "the number of heads"),
        .batch = batch_of(op.batch),
        .positions = op.batch.positions.as<std::int32_t>(),
        .rotary_dim = extent(p.rotary_dim, "rotary_dim"),
        .theta = p.theta,
        .position_divisor = p.scaling == RopeScaling::linear ? p.factor : 1.0,
        .dynamic = p.scaling == RopeScaling::dynamic,
        .factor = p.factor,
        .max_position_embeddings = p.max_position_embeddings},
       context.stream());
}

void attention(Context& context, const mamba2::Attention& op) {
  require(op.k_cache.dtype == DType::f32, "Attention: k_cache is {}, the cuda backend keeps it in f32",
          name(op.k_cache.dtype));
  require(op.k_cache.contiguous() && op.v_cache.contiguous(), "Attention: the caches have gaps");
  require(op.q.size(2) <= attention_max_head_dim, "Attention: head_dim is {}, the cuda backend takes at most {}",
          op.q.size(2), attention_max_head_dim);
  const Attention attention{.q = heads_of(op.q),
                            .k = heads_of(op.k),
                            .v = heads_of(op.v),
                            .out = heads_of(op.out),
                            .heads = extent(op.q.size(1), "num_attention_heads"),
                            .kv_heads = extent(op.k.size(1), "num_key_value_heads"),
                            .head_dim = extent(op.q.size(2), "head_dim"),
                            .scale = static_cast<float>(op.scale),
                            .batch = batch_of(op.batch),
                            .positions = op.batch.positions.as<std::int32_t>(),
                            .k_cache = op.k_cache.as<float>(),
                            .v_cache = op.v_cache.as<float>(),
                            .capacity = op.k_cache.size(1)};
  append(attention, context.stream());
  if (context.rounds() && attend_tiles_takes(attention, current_device().compute_capability))
    return attend_tiles(attention, context.stream());
  attend(attention, context.stream());
}

}  // namespace mamba2::cuda
