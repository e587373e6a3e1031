#include "mamba2/ops/check.h"

#include <string_view>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

/// Checks the operands of one op; every message starts with the op's name.  Texts of shapes are made where they are
/// needed alone: a step checks some hundred ops.
class Checker {
 public:
  Checker(std::string_view op, const Backend& backend) : op_(op), backend_(backend) {}

  void shape(std::string_view operand, const Tensor& tensor, const Shape& expected) const {
    if (tensor.shape != expected)
      fail("{}: {} is {}, expected {}", op_, operand, to_string(tensor.shape), to_string(expected));
    layout(operand, tensor);
  }

  void rank(std::string_view operand, const Tensor& tensor, int expected) const {
    if (tensor.rank() != expected)
      fail("{}: {} is {}, expected {} dimensions", op_, operand, to_string(tensor.shape), expected);
    layout(operand, tensor);
  }

  void dtype(std::string_view operand, const Tensor& tensor, DType expected) const {
    require(tensor.dtype == expected, "{}: {} is {}, expected {}", op_, operand, name(tensor.dtype), name(expected));
  }

  void activation(std::string_view operand, const Tensor& tensor) const {
    dtype(operand, tensor, backend_.activation_dtype());
  }

  /// A tensor of given shape in the dtype that dt, decay and losses are computed in: f32, or f64 among f64 activations.
  void precise(std::string_view operand, const Tensor& tensor, const Shape& expected) const {
    shape(operand, tensor, expected);
    dtype(operand, tensor, backend_.activation_dtype() == DType::f64 ? DType::f64 : DType::f32);
  }

  /// A tensor of given shape and the activations' dtype.
  void activation(std::string_view operand, const Tensor& tensor, const Shape& expected) const {
    shape(operand, tensor, expected);
    activation(operand, tensor);
  }

  void weight(const PreparedWeight* weight, std::int64_t rows, std::int64_t columns) const {
    require(weight != nullptr, "{}: the weight is absent", op_);
    const Shape expected{rows, columns};
    if (weight->shape != expected)
      fail("{}: weight is {}, expected {}", op_, to_string(weight->shape), to_string(expected));
  }

  void batch(const Batch& batch, std::int64_t tokens) const {
    require(batch.tokens == tokens, "{}: the batch holds {} tokens, expected {}", op_, batch.tokens, tokens);
    shape("batch.sequence_start", batch.sequence_start, Shape{batch.sequences + 1});
    dtype("batch.sequence_start", batch.sequence_start, DType::i32);
    shape("batch.slots", batch.slots, Shape{batch.sequences});
    dtype("batch.slots", batch.slots, DType::i32);
  }

  void positions(const Batch& batch) const {
    shape("batch.positions", batch.positions, Shape{batch.tokens});
    dtype("batch.positions", batch.positions, DType::i32);
  }

  void rounding(StateRounding rounding, const Tensor& ssm_state, const Batch& batch) const {
    if (rounding == StateRounding::nearest || ssm_state.dtype == DType::f32) return;
    dtype("ssm_state, rounded stochastically,", ssm_state, DType::bf16);
    positions(batch);
  }

  void without_gaps(std::string_view operand, const Tensor& tensor) const {
    require(tensor.contiguous(), "{}: {} has gaps between its rows", op_, operand);
  }

  /// Sums of squares of all ranks' groups, which a rank's channels [first, first + width) lie in.
  void square_sums(const Tensor& sums, std::int64_t rows, std::int64_t group_size, std::int64_t first,
                   std::int64_t width) const {
    rank("square_sums", sums, 2);
    precise("square_sums", sums, Shape{rows, sums.size(1)});
    without_gaps("square_sums", sums);
    that(group_size > 0 && first >= 0 && first + width <= sums.size(1) * group_size,
         "channels {} to {} are not all in {} groups of {}", first, first + width, sums.size(1), group_size);
  }

  void ranks() const { that(backend_.communicator() != nullptr, "the backend computes alone, expected several ranks"); }

  void pending(const PendingInputs& pending, const Tensor& ssm_state) const {
    const std::int64_t slots = ssm_state.size(0), num_heads = ssm_state.size(1);
    shape("pending.since", pending.since, Shape{slots});
    dtype("pending.since", pending.since, DType::i32);
    rank("pending.input", pending.input, 4);
    const std::int64_t room = pending.input.size(2);
    that(room > 0, "there is room for {} pending inputs, expected 1 or more", room);
    shape("pending.input", pending.input, Shape{slots, num_heads, room, ssm_state.size(2)});
    dtype("pending.input", pending.input, ssm_state.dtype);
    rank("pending.B", pending.B, 4);
    const std::int64_t n_groups = pending.B.size(1);
    that(n_groups > 0 && num_heads % n_groups == 0, "pending.B has {} groups, expected a divisor of num_heads {}",
         n_groups, num_heads);
    shape("pending.B", pending.B, Shape{slots, n_groups, room, ssm_state.size(3)});
    dtype("pending.B", pending.B, ssm_state.dtype);
    precise("pending.log_decay", pending.log_decay, Shape{slots, num_heads, room});
  }

  template <class... Args>
  void that(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (!condition) fail("{}: {}", op_, fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  void layout(std::string_view operand, const Tensor& tensor) const {
    require(tensor.device == backend_.device(), "{}: {} lies on another device than the backend '{}'", op_, operand,
            backend_.name());
    require(tensor.rank() == 0 || tensor.size(-1) <= 1 || tensor.stride(-1) == 1,
            "{}: {} has stride {} in its innermost dimension, expected 1", op_, operand, tensor.stride(-1));
  }

  std::string_view op_;
  const Backend& backend_;
};

}  // namespace

void check(const Embedding& op, const Backend& backend) {
  const Checker c("Embedding", backend);
  c.rank("ids", op.ids, 1);
  c.dtype("ids", op.ids, DType::i32);
  c.that(op.weight != nullptr, "the weight is absent");
  c.activation("out", op.out, Shape{op.ids.size(0), op.weight->shape[1]});
}

void check(const Linear& op, const Backend& backend) {
  const Checker c("Linear", backend);
  c.rank("x", op.x, 2);
  c.activation("x", op.x);
  c.rank("out", op.out, 2);
  c.weight(op.weight, op.out.size(1), op.x.size(1));
  c.activation("out", op.out, Shape{op.x.size(0), op.out.size(1)});
  if (!op.bias.empty()) c.activation("bias", op.bias, Shape{op.out.size(1)});
  if (!op.add.empty()) c.activation("add", op.add, op.out.shape);
}

void check(const RmsNorm& op, const Backend& backend) {
  const Checker c("RmsNorm", backend);
  c.rank("x", op.x, 2);
  c.activation("x", op.x);
  c.activation("weight", op.weight, Shape{op.x.size(1)});
  c.activation("out", op.out, op.x.shape);
}

void check(const GatedRmsNorm& op, const Backend& backend) {
  const Checker c("GatedRmsNorm", backend);
  c.rank("y", op.y, 2);
  c.activation("y", op.y);
  c.activation("z", op.z, op.y.shape);
  c.activation("out", op.out, op.y.shape);
  if (op.weight.empty()) return;
  c.activation("weight", op.weight, Shape{op.y.size(1)});
  c.that(op.group_size > 0 && op.y.size(1) % op.group_size == 0, "group_size is {}, expected a divisor of {}",
         op.group_size, op.y.size(1));
}

void check(const CausalConv& op, const Backend& backend) {
  const Checker c("CausalConv", backend);
  c.rank("x", op.x, 2);
  c.activation("x", op.x);
  c.batch(op.batch, op.x.size(0));
  const std::int64_t conv_dim = op.x.size(1);
  c.rank("weight", op.weight, 2);
  c.that(op.weight.size(1) >= 1, "conv_kernel is {}, expected 1 or more", op.weight.size(1));
  c.activation("weight", op.weight, Shape{conv_dim, op.weight.size(1)});
  if (!op.bias.empty()) c.activation("bias", op.bias, Shape{conv_dim});
  c.rank("conv_state", op.conv_state, 3);
  c.activation("conv_state", op.conv_state, Shape{op.conv_state.size(0), conv_dim, op.weight.size(1) - 1});
  c.activation("out", op.out, op.x.shape);
}

void check(const TimeStep& op, const Backend& backend) {
  const Checker c("TimeStep", backend);
  c.rank("dt_raw", op.dt_raw, 2);
  c.activation("dt_raw", op.dt_raw);
  c.precise("dt_bias", op.dt_bias, Shape{op.dt_raw.size(1)});
  c.precise("out", op.out, op.dt_raw.shape);
}

void check(const SsdScan& op, const Backend& backend) {
  const Checker c("SsdScan", backend);
  c.rank("x", op.x, 3);
  c.activation("x", op.x);
  c.batch(op.batch, op.x.size(0));
  const std::int64_t tokens = op.x.size(0), num_heads = op.x.size(1), head_dim = op.x.size(2);
  c.rank("B", op.B, 3);
  const std::int64_t n_groups = op.B.size(1), state_size = op.B.size(2);
  c.that(n_groups > 0 && num_heads % n_groups == 0, "n_groups is {}, expected a divisor of num_heads {}", n_groups,
         num_heads);
  c.activation("B", op.B, Shape{tokens, n_groups, state_size});
  c.activation("C", op.C, Shape{tokens, n_groups, state_size});
  c.precise("dt", op.dt, Shape{tokens, num_heads});
  c.precise("A_log", op.A_log, Shape{num_heads});
  c.precise("D", op.D, op.D.rank() == 2 ? Shape{num_heads, head_dim} : Shape{num_heads});
  c.rank("ssm_state", op.ssm_state, 4);
  c.shape("ssm_state", op.ssm_state, Shape{op.ssm_state.size(0), num_heads, head_dim, state_size});
  c.rounding(op.rounding, op.ssm_state, op.batch);
  c.activation("out", op.out, op.x.shape);
}

void check(const GatedActivation& op, const Backend& backend) {
  const Checker c("GatedActivation", backend);
  c.rank("value", op.value, 2);
  c.activation("value", op.value);
  c.activation("gate", op.gate, op.value.shape);
  c.activation("out", op.out, op.value.shape);
}

void check(const Activate& op, const Backend& backend) {
  const Checker c("Activate", backend);
  c.rank("x", op.x, 2);
  c.activation("x", op.x);
  c.activation("out", op.out, op.x.shape);
}

void check(const Mixer& op, const Backend& backend) {
  const Checker c("Mixer", backend);
  c.rank("projected", op.projected, 2);
  c.activation("projected", op.projected);
  const std::int64_t tokens = op.projected.size(0);
  c.batch(op.batch, tokens);
  c.rank("ssm_state", op.ssm_state, 4);
  const std::int64_t slots = op.ssm_state.size(0), num_heads = op.ssm_state.size(1);
  const std::int64_t intermediate_size = num_heads * op.ssm_state.size(2);
  const std::int64_t conv_dim = intermediate_size + 2 * op.n_groups * op.ssm_state.size(3);
  c.that(op.n_groups > 0 && num_heads % op.n_groups == 0, "n_groups is {}, expected a divisor of num_heads {}",
         op.n_groups, num_heads);
  c.rank("out", op.out, 2);
  const std::int64_t mlp = op.out.size(1) - intermediate_size;
  if (mlp < 0) c.that(false, "out is {}, expected {} columns or more", to_string(op.out.shape), intermediate_size);
  c.activation("projected", op.projected, Shape{tokens, 2 * mlp + intermediate_size + conv_dim + num_heads});
  c.rank("conv_weight", op.conv_weight, 2);
  c.that(op.conv_weight.size(1) >= 1, "conv_kernel is {}, expected 1 or more", op.conv_weight.size(1));
  c.activation("conv_weight", op.conv_weight, Shape{conv_dim, op.conv_weight.size(1)});
  if (!op.conv_bias.empty()) c.activation("conv_bias", op.conv_bias, Shape{conv_dim});
  c.activation("conv_state", op.conv_state, Shape{slots, conv_dim, op.conv_weight.size(1) - 1});
  c.precise("dt_bias", op.dt_bias, Shape{num_heads});
  c.precise("A_log", op.A_log, Shape{num_heads});
  c.precise("D", op.D, op.D.rank() == 2 ? Shape{num_heads, op.ssm_state.size(2)} : Shape{num_heads});
  if (!op.norm_weight.empty()) {
    c.activation("norm_weight", op.norm_weight, Shape{intermediate_size});
    if (op.square_sums.empty())
      c.that(op.norm_group_size > 0 && intermediate_size % op.norm_group_size == 0,
             "norm_group_size is {}, expected a divisor of {}", op.norm_group_size, intermediate_size);
    else
      c.square_sums(op.square_sums, tokens, op.norm_group_size, op.norm_first_channel, intermediate_size);
  }
  c.rounding(op.rounding, op.ssm_state, op.batch);
  if (!op.pending.since.empty()) {
    c.pending(op.pending, op.ssm_state);
    c.that(op.pending.B.size(1) == op.n_groups, "pending.B has {} groups, expected {}", op.pending.B.size(1),
           op.n_groups);
    c.that(op.batch.longest == 1 && op.batch.sequences == tokens,
           "inputs are left pending by a batch of {} tokens of {} sequences, expected one token each", tokens,
           op.batch.sequences);
    c.positions(op.batch);
  }
  c.activation("xBC", op.xBC, Shape{tokens, conv_dim});
  c.precise("dt", op.dt, Shape{tokens, num_heads});
  c.activation("y", op.y, Shape{tokens, intermediate_size});
  c.activation("out", op.out, Shape{tokens, mlp + intermediate_size});
}

void check(const MixerLayers& op, const Backend& backend) {
  for (const MixerLayer& layer : op.layers) {
    check(layer.norm, backend);
    check(layer.in_proj, backend);
    check(layer.mixer, backend);
    check(layer.out_proj, backend);
  }
}

void check(const SettleState& op, const Backend& backend) {
  const Checker c("SettleState", backend);
  c.rank("ssm_state", op.ssm_state, 4);
  c.pending(op.pending, op.ssm_state);
  c.rank("slots", op.slots, 1);
  c.dtype("slots", op.slots, DType::i32);
  c.shape("ends", op.ends, op.slots.shape);
  c.dtype("ends", op.ends, DType::i32);
}

void check(const Rope& op, const Backend& backend) {
  const Checker c("Rope", backend);
  c.rank("x", op.x, 3);
  c.activation("x", op.x);
  c.batch(op.batch, op.x.size(0));
  c.positions(op.batch);
  const std::int64_t rotary_dim = op.parameters.rotary_dim;
  c.that(rotary_dim >= 0 && rotary_dim % 2 == 0 && rotary_dim <= op.x.size(2),
         "rotary_dim is {}, expected an even number from 0 to head_dim {}", rotary_dim, op.x.size(2));
}

void check(const Attention& op, const Backend& backend) {
  const Checker c("Attention", backend);
  c.rank("q", op.q, 3);
  c.activation("q", op.q);
  c.batch(op.batch, op.q.size(0));
  c.positions(op.batch);
  c.rank("k", op.k, 3);
  const std::int64_t tokens = op.q.size(0), heads = op.q.size(1), kv_heads = op.k.size(1), head_dim = op.q.size(2);
  c.that(kv_heads > 0 && heads % kv_heads == 0, "num_key_value_heads is {}, expected a divisor of {}", kv_heads, heads);
  c.activation("k", op.k, Shape{tokens, kv_heads, head_dim});
  c.activation("v", op.v, Shape{tokens, kv_heads, head_dim});
  c.rank("k_cache", op.k_cache, 4);
  c.shape("k_cache", op.k_cache, Shape{op.k_cache.size(0), op.k_cache.size(1), kv_heads, head_dim});
  c.shape("v_cache", op.v_cache, op.k_cache.shape);
  c.dtype("v_cache", op.v_cache, op.k_cache.dtype);
  c.activation("out", op.out, op.q.shape);
}

void check(const GatherRows& op, const Backend& backend) {
  const Checker c("GatherRows", backend);
  c.rank("x", op.x, 2);
  c.activation("x", op.x);
  c.rank("rows", op.rows, 1);
  c.dtype("rows", op.rows, DType::i32);
  c.activation("out", op.out, Shape{op.rows.size(0), op.x.size(1)});
}

void check(const CrossEntropy& op, const Backend& backend) {
  const Checker c("CrossEntropy", backend);
  c.rank("logits", op.logits, 2);
  c.activation("logits", op.logits);
  c.shape("labels", op.labels, Shape{op.logits.size(0)});
  c.dtype("labels", op.labels, DType::i32);
  c.precise("out", op.out, Shape{op.logits.size(0)});
}

void check(const ChooseToken& op, const Backend& backend) {
  const Checker c("ChooseToken", backend);
  c.rank("logits", op.logits, 2);
  c.activation("logits", op.logits);
  const std::int64_t rows = op.logits.size(0);
  c.that(op.logits.size(1) > 0, "logits has no columns, expected a token to choose");
  auto integers = [&](std::string_view operand, const Tensor& tensor, const Shape& shape) {
    c.shape(operand, tensor, shape);
    c.dtype(operand, tensor, DType::i32);
  };
  integers("rules", op.rules, Shape{rows, token_rule_words});
  c.that(op.rules.contiguous(), "rules has gaps between its rows");
  integers("steps", op.steps, Shape{rows});
  integers("out", op.out, Shape{rows});
  if (!op.positions.empty()) integers("positions", op.positions, Shape{op.positions.elements()});
  if (op.history.empty()) return;
  c.rank("history", op.history, 2);
  integers("history", op.history, Shape{rows, op.history.size(1)});
}

void check(const AddOverRanks& op, const Backend& backend) {
  const Checker c("AddOverRanks", backend);
  c.ranks();
  c.rank("x", op.x, 2);
  c.activation("x", op.x);
  c.without_gaps("x", op.x);
  c.activation("add", op.add, op.x.shape);
  c.activation("out", op.out, op.x.shape);
}

void check(const NormOverRanks& op, const Backend& backend) {
  const Checker c("NormOverRanks", backend);
  c.ranks();
  c.rank("x", op.x, 2);
  c.activation("x", op.x);
  c.activation("weight", op.weight, Shape{op.x.size(1)});
  c.square_sums(op.square_sums, op.x.size(0), op.group_size, op.first_channel, op.x.size(1));
  c.activation("out", op.out, op.x.shape);
}

void check(const Broadcast& op, const Backend& backend) {
  const Checker c("Broadcast", backend);
  c.ranks();
  c.rank("x", op.x, 1);
  c.dtype("x", op.x, DType::i32);
  c.without_gaps("x", op.x);
}

}  // namespace mamba2
