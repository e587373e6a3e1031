#include "mamba2/ops/backend.h"

#include <array>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/ops/check.h"
#include "mamba2/ops/over_ranks.h"
#include "mamba2/tensor/columns.h"

namespace mamba2 {
namespace {

NormOverRanks norm_of(const Mixer& op, const Tensor& x, const Tensor& out) {
  return {.x = x,
          .weight = op.norm_weight,
          .group_size = op.norm_group_size,
          .first_channel = op.norm_first_channel,
          .eps = op.norm_eps,
          .square_sums = op.square_sums,
          .out = out};
}

}  // namespace

Buffer::Buffer(Buffer&& other) noexcept
    : owner_(other.owner_), memory_(std::exchange(other.memory_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(owner_, other.owner_);
  std::swap(memory_, other.memory_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Buffer::~Buffer() {
  if (memory_ != nullptr) owner_->free_bytes(memory_, bytes_);
}

std::int64_t Backend::piece_tokens(std::int64_t) {
  return 1024;
}

DeviceTensor Backend::allocate(DType dtype, const Shape& shape) {
  const std::size_t bytes = bytes_for(dtype, shape.elements());
  DeviceTensor made;
  made.buffer = Buffer(*this, allocate_bytes(bytes), bytes);
  made.view = Tensor(made.buffer.data(), dtype, shape, device());
  return made;
}

DeviceTensor Backend::upload(const Tensor& host, DType dtype) {
  DeviceTensor made = allocate(dtype, host.shape);
  const HostTensor converted(dtype, host.shape);
  convert(host, converted);
  upload(converted.view(), made.view);
  return made;
}

void Backend::start_download(const Tensor& on_device) {
  download(on_device, started_downloads_.emplace_back(on_device.dtype, on_device.shape));
}

void Backend::finish_download(const Tensor& host) {
  require(!started_downloads_.empty(), "no download was started");
  const HostTensor oldest = std::move(started_downloads_.front());
  started_downloads_.pop_front();
  convert(oldest, host);
}

void Backend::run(const Embedding& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const Linear& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const RmsNorm& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const GatedRmsNorm& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const CausalConv& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const TimeStep& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const SsdScan& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const GatedActivation& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const Activate& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const Mixer& op) {
  check(op, *this);
  if (op.square_sums.empty())
    compute(op);
  else
    compute_with_norm_over_ranks(op);
}
void Backend::run(const MixerLayers& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const SettleState& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const Rope& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const Attention& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const GatherRows& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const CrossEntropy& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const ChooseToken& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const AddOverRanks& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const NormOverRanks& op) {
  check(op, *this);
  compute(op);
}
void Backend::run(const Broadcast& op) {
  check(op, *this);
  compute(op);
}

void Backend::compute(const ChooseToken&) {
  fail("the {} backend does not choose tokens", name());
}

void Backend::compute(const SettleState&) {
  fail("the {} backend leaves no inputs pending", name());
}

void Backend::compute(const AddOverRanks& op) {
  add_over_ranks(op, *communicator_);
}

void Backend::compute(const NormOverRanks& op) {
  norm_over_ranks(op, *communicator_);
}

void Backend::compute(const Broadcast& op) {
  communicator_->broadcast(op.x, nullptr);
}

/// The norm scales what the gate has been multiplied with already, or y before it is.
void Backend::compute_with_norm_over_ranks(const Mixer& op) {
  const std::int64_t intermediate_size = op.y.size(1);
  const Tensor out = op.out.slice(1, op.out.size(1) - intermediate_size, intermediate_size);
  if (op.order == GateOrder::norm_first) return Backend::compute(op);
  Mixer gated = op;
  gated.norm_weight = {};
  gated.square_sums = {};
  compute(gated);
  run(norm_of(op, out, out));
}

void Backend::compute(const MixerLayers& op) {
  for (const MixerLayer& layer : op.layers) {
    compute(layer.norm);
    compute(layer.in_proj);
    compute(layer.mixer);
    compute(layer.out_proj);
  }
}

void Backend::compute(const Mixer& op) {
  require(op.pending.since.empty(), "the {} backend leaves no inputs pending", name());
  const std::int64_t num_heads = op.ssm_state.size(1), head_dim = op.ssm_state.size(2),
                     state_size = op.ssm_state.size(3);
  const std::int64_t intermediate_size = num_heads * head_dim, groups_width = op.n_groups * state_size;
  const std::int64_t conv_dim = intermediate_size + 2 * groups_width, mlp = op.out.size(1) - intermediate_size;

  std::int64_t column = 0;
  auto take = [&column](const Tensor& from, std::int64_t width) {
    const Tensor view = from.slice(1, column, width);
    column += width;
    return view;
  };
  const Tensor z0 = take(op.projected, mlp), x0 = take(op.projected, mlp), z = take(op.projected, intermediate_size);
  const Tensor xBC = take(op.projected, conv_dim), dt_raw = take(op.projected, num_heads);

  run(CausalConv{.x = xBC,
                 .weight = op.conv_weight,
                 .bias = op.conv_bias,
                 .act = op.act,
                 .batch = op.batch,
                 .conv_state = op.conv_state,
                 .out = op.xBC});
  run(TimeStep{.dt_raw = dt_raw, .dt_bias = op.dt_bias, .limit = op.limit, .out = op.dt});
  column = 0;
  const Tensor x = take(op.xBC, intermediate_size), B = take(op.xBC, groups_width), C = take(op.xBC, groups_width);
  run(SsdScan{.x = split_columns(x, num_heads, head_dim),
              .dt = op.dt,
              .A_log = op.A_log,
              .B = split_columns(B, op.n_groups, state_size),
              .C = split_columns(C, op.n_groups, state_size),
              .D = op.D,
              .batch = op.batch,
              .ssm_state = op.ssm_state,
              .rounding = op.rounding,
              .layer = op.layer,
              .out = split_columns(op.y, num_heads, head_dim)});
  const Tensor normed = op.out.slice(1, mlp, intermediate_size);
  const bool over_ranks = !op.square_sums.empty();
  if (over_ranks) run(norm_of(op, op.y, normed));
  run(GatedRmsNorm{.y = over_ranks ? normed : op.y,
                   .z = z,
                   .weight = over_ranks ? Tensor() : op.norm_weight,
                   .group_size = op.norm_group_size,
                   .eps = op.norm_eps,
                   .order = op.order,
                   .out = normed});
  if (mlp > 0) run(GatedActivation{.value = x0, .gate = z0, .act = Activation::silu, .out = op.out.slice(1, 0, mlp)});
}

namespace {

struct NamedActivation {
  std::string_view name;
  Activation act;
};

constexpr std::array<NamedActivation, 10> activations{{{"silu", Activation::silu},
                                                       {"swish", Activation::silu},
                                                       {"gelu", Activation::gelu},
                                                       {"gelu_new", Activation::gelu_tanh},
                                                       {"gelu_pytorch_tanh", Activation::gelu_tanh},
                                                       {"relu", Activation::relu},
                                                       {"tanh", Activation::tanh},
                                                       {"sigmoid", Activation::sigmoid},
                                                       {"linear", Activation::none},
                                                       {"identity", Activation::none}}};

}  // namespace

std::optional<Activation> parse_activation(std::string_view name) {
  for (const NamedActivation& a : activations)
    if (a.name == name) return a.act;
  return std::nullopt;
}

std::string_view name(Activation act) {
  for (const NamedActivation& a : activations)
    if (a.act == act) return a.name;
  return "none";
}

}  // namespace mamba2
