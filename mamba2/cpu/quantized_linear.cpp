// Linear and Embedding with quantised weights.  All rows of x become bytes first, shared by all threads; then panels of
// the weights are handed out.
#include "mamba2/cpu/quantized_linear.h"

#include <algorithm>

#include "mamba2/base/error.h"
#include "mamba2/cpu/quantized_weight.h"

namespace mamba2::cpu {
namespace {

// Bytes of the weights that a piece of work reads at least, so that handing it out costs nothing beside.
constexpr std::int64_t least_bytes_a_piece = 16 * 1024;
// Rows of x of a block stay in L2 while panels pass.
constexpr std::int64_t row_block_bytes = 384 * 1024;
// Elements of x below which a second thread costs more than it brings.
constexpr std::int64_t least_elements_a_piece = 8 * 1024;

struct Rows {
  const std::byte* data;
  std::int64_t stride;
};

Rows quantize_rows(Context& context, const Tensor& x, const QuantizedWeight& weight) {
  const std::int64_t stride = quantized_row_bytes(weight.layout(), x.size(1));
  auto* const rows = static_cast<std::byte*>(context.shared_scratch(static_cast<std::size_t>(x.size(0) * stride)));
  const std::int64_t grain = least_elements_a_piece / std::max<std::int64_t>(x.size(1), 1) + 1;
  context.pool.parallel_for(x.size(0), grain, [&](std::int64_t begin, std::int64_t end, int) {
    weight.kernels().quantize_rows({.x = x.as<float>() + begin * x.stride(0),
                                    .x_stride = x.stride(0),
                                    .rows = end - begin,
                                    .k = x.size(1),
                                    .to = rows + begin * stride,
                                    .to_stride = stride});
  });
  return {rows, stride};
}

/// Rows [m, m + rows) and one panel of the product.
QuantizedLinearTask part(const Linear& op, const Rows& x, std::int64_t m, std::int64_t rows, std::int64_t panel,
                         std::int64_t ahead, float* scratch) {
  const auto& weight = static_cast<const QuantizedWeight&>(*op.weight);
  const std::int64_t n = panel * panel_rows;
  return {.x = x.data + m * x.stride,
          .x_stride = x.stride,
          .m = rows,
          .panel = weight.panel(panel),
          .n = std::min<std::int64_t>(panel_rows, op.out.size(1) - n),
          .k = op.x.size(1),
          .ahead = ahead,
          .bias = op.bias.empty() ? nullptr : op.bias.as<float>() + n,
          .add = op.add.empty() ? nullptr : op.add.as<float>() + m * op.add.stride(0) + n,
          .add_stride = op.add.empty() ? 0 : op.add.stride(0),
          .out = op.out.as<float>() + m * op.out.stride(0) + n,
          .out_stride = op.out.stride(0),
          .scratch = scratch};
}

}  // namespace

void quantized_linear(Context& context, const Linear& op) {
  const auto& weight = static_cast<const QuantizedWeight&>(*op.weight);
  const std::int64_t m = op.x.size(0), panels = (op.out.size(1) + panel_rows - 1) / panel_rows;
  if (m == 0 || panels == 0) return;
  const Rows x = quantize_rows(context, op.x, weight);
  const std::int64_t rows_that_fit = row_block_bytes / std::max<std::int64_t>(x.stride, 1);
  const std::int64_t block = std::min(m, std::max<std::int64_t>(rows_that_fit / 8 * 8, 8));
  const std::int64_t row_blocks = (m + block - 1) / block;
  const std::int64_t grain = least_bytes_a_piece / std::max<std::int64_t>(weight.panel_bytes(), 1) + 1;
  context.reserve_scratch(quantized_scratch(block));
  const auto multiply = weight.kernels().linear;
  context.pool.parallel_for(row_blocks * panels, grain, [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = i / panels * block;
      multiply(part(op, x, row, std::min(block, m - row), i % panels, context.weights_ahead, context.scratch(worker)));
    }
  });
}

void quantized_embedding(Context& context, const Embedding& op) {
  const auto& weight = static_cast<const QuantizedWeight&>(*op.weight);
  const auto* ids = op.ids.as<std::int32_t>();
  const std::int64_t vocab_size = weight.shape[0], hidden_size = weight.shape[1];
  for (std::int64_t t = 0; t < op.ids.size(0); ++t)
    require(ids[t] >= 0 && ids[t] < vocab_size, "Embedding: id {} at place {} is outside [0, {})", ids[t], t,
            vocab_size);
  context.pool.parallel_for(op.ids.size(0), 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t t = begin; t < end; ++t)
      weight.read_row(ids[t], {op.out.as<float>() + t * op.out.stride(0), static_cast<std::size_t>(hidden_size)});
  });
}

}  // namespace mamba2::cpu
