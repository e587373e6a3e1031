// Ops whose rows have nothing to do with each other: norms, activations, gathering, the loss.
#include <cstring>

#include "mamba2/base/error.h"
#include "mamba2/cpu/context.h"

namespace mamba2::cpu {
namespace {

const float* values(const Tensor& tensor, std::int64_t row) {
  return tensor.empty() ? nullptr : tensor.as<float>() + row * tensor.stride(0);
}

ActivationTask activation_task(const Tensor& value, const Tensor& gate, Activation act, const Tensor& out,
                               std::int64_t begin, std::int64_t end) {
  return {.value = values(value, begin),
          .gate = values(gate, begin),
          .value_stride = value.empty() ? 0 : value.stride(0),
          .gate_stride = gate.stride(0),
          .rows = end - begin,
          .width = gate.size(1),
          .act = act,
          .out = out.as<float>() + begin * out.stride(0),
          .out_stride = out.stride(0)};
}

}  // namespace

void rms_norm(Context& context, const RmsNorm& op) {
  context.pool.parallel_for(op.x.size(0), rows_a_piece(op.x.size(1)), [&](std::int64_t begin, std::int64_t end, int) {
    context.kernels.rms_norm({.x = values(op.x, begin),
                              .x_stride = op.x.stride(0),
                              .rows = end - begin,
                              .width = op.x.size(1),
                              .weight = op.weight.as<float>(),
                              .eps = static_cast<float>(op.eps),
                              .out = op.out.as<float>() + begin * op.out.stride(0),
                              .out_stride = op.out.stride(0)});
  });
}

void gated_rms_norm(Context& context, const GatedRmsNorm& op) {
  context.pool.parallel_for(op.y.size(0), rows_a_piece(op.y.size(1)), [&](std::int64_t begin, std::int64_t end, int) {
    context.kernels.gated_rms_norm({.y = values(op.y, begin),
                                    .z = values(op.z, begin),
                                    .y_stride = op.y.stride(0),
                                    .z_stride = op.z.stride(0),
                                    .rows = end - begin,
                                    .width = op.y.size(1),
                                    .weight = op.weight.empty() ? nullptr : op.weight.as<float>(),
                                    .group_size = op.group_size,
                                    .eps = static_cast<float>(op.eps),
                                    .order = op.order,
                                    .out = op.out.as<float>() + begin * op.out.stride(0),
                                    .out_stride = op.out.stride(0)});
  });
}

void gated_activation(Context& context, const GatedActivation& op) {
  context.pool.parallel_for(
      op.value.size(0), rows_a_piece(op.value.size(1)), [&](std::int64_t begin, std::int64_t end, int) {
        context.kernels.activation(activation_task(op.value, op.gate, op.act, op.out, begin, end));
      });
}

void activate(Context& context, const Activate& op) {
  context.pool.parallel_for(op.x.size(0), rows_a_piece(op.x.size(1)), [&](std::int64_t begin, std::int64_t end, int) {
    context.kernels.activation(activation_task(Tensor(), op.x, op.act, op.out, begin, end));
  });
}

void gather_rows(Context& context, const GatherRows& op) {
  const auto* rows = op.rows.as<std::int32_t>();
  const std::int64_t count = op.x.size(0), element = static_cast<std::int64_t>(element_size(op.x.dtype));
  const std::int64_t bytes = op.x.size(1) * element;
  for (std::int64_t i = 0; i < op.rows.size(0); ++i)
    require(rows[i] >= 0 && rows[i] < count, "GatherRows: row {} is outside [0, {})", rows[i], count);
  context.pool.parallel_for(op.rows.size(0), 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i)
      std::memcpy(op.out.as<std::byte>() + i * op.out.stride(0) * element,
                  op.x.as<std::byte>() + rows[i] * op.x.stride(0) * element, static_cast<std::size_t>(bytes));
  });
}

void cross_entropy(Context& context, const CrossEntropy& op) {
  constexpr std::int32_t ignored = -100;
  const auto* labels = op.labels.as<std::int32_t>();
  const std::int64_t classes = op.logits.size(1);
  for (std::int64_t i = 0; i < op.labels.size(0); ++i)
    require(labels[i] == ignored || (labels[i] >= 0 && labels[i] < classes),
            "CrossEntropy: label {} is neither in [0, {}) nor -100", labels[i], classes);
  context.pool.parallel_for(op.logits.size(0), 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float* const logits = values(op.logits, i);
      op.out.as<float>()[i * op.out.stride(0)] =
          labels[i] == ignored ? 0.0F : context.kernels.log_sum_exp(logits, classes) - logits[labels[i]];
    }
  });
}

}  // namespace mamba2::cpu
