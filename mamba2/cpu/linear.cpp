#include <algorithm>

#include "mamba2/base/error.h"
#include "mamba2/cpu/context.h"

namespace mamba2::cpu {
namespace {

// Few rows: elements of the weight that a piece of work reads at least, so that handing it out costs nothing beside.
constexpr std::int64_t least_elements_a_piece = 32 * 1024;
constexpr std::int64_t columns_in_a_step = 8;  // the kernel's widest tile

// Many rows: a block of x (192 rows of 512 columns or 96 of 1024 take 384 KiB) stays in L2 while the rows of the weight
// pass.
constexpr std::int64_t rows_in_a_block = 96;
constexpr std::int64_t columns_in_a_block = 64;

LinearTask task_of(const Linear& op) {
  const Tensor& w = static_cast<const CpuWeight*>(op.weight)->matrix;
  return {.x = op.x.as<float>(),
          .x_stride = op.x.stride(0),
          .m = op.x.size(0),
          .w = w.data,
          .w_stride = w.stride(0),
          .n = op.out.size(1),
          .k = op.x.size(1),
          .bias = op.bias.empty() ? nullptr : op.bias.as<float>(),
          .add = op.add.empty() ? nullptr : op.add.as<float>(),
          .add_stride = op.add.empty() ? 0 : op.add.stride(0),
          .out = op.out.as<float>(),
          .out_stride = op.out.stride(0),
          .scratch = nullptr};
}

/// Rows [m, m + rows) and columns [n, n + columns) of a task.
LinearTask part(const LinearTask& whole, std::size_t element, std::int64_t m, std::int64_t rows, std::int64_t n,
                std::int64_t columns) {
  LinearTask t = whole;
  t.x += m * t.x_stride;
  t.m = rows;
  t.w = static_cast<const std::byte*>(t.w) + n * t.w_stride * static_cast<std::int64_t>(element);
  t.n = columns;
  if (t.bias != nullptr) t.bias += n;
  if (t.add != nullptr) t.add += m * t.add_stride + n;
  t.out += m * t.out_stride + n;
  return t;
}

void linear_few_rows(Context& context, const LinearTask& whole, const CpuWeight& weight) {
  const std::int64_t steps = (whole.n + columns_in_a_step - 1) / columns_in_a_step;
  const std::int64_t grain = least_elements_a_piece / (columns_in_a_step * std::max<std::int64_t>(whole.k, 1));
  context.reserve_scratch(linear_scratch(whole.m, whole.n));
  context.pool.parallel_for(steps, grain, [&](std::int64_t begin, std::int64_t end, int worker) {
    const std::int64_t n = begin * columns_in_a_step, last = std::min(end * columns_in_a_step, whole.n);
    LinearTask t = part(whole, element_size(weight.dtype), 0, whole.m, n, last - n);
    t.scratch = context.scratch(worker);
    context.kernels.linear[static_cast<int>(weight.type)](t);
  });
}

void linear_many_rows(Context& context, const LinearTask& whole, const CpuWeight& weight) {
  const std::int64_t column_blocks = (whole.n + columns_in_a_block - 1) / columns_in_a_block;
  const std::int64_t row_blocks = (whole.m + rows_in_a_block - 1) / rows_in_a_block;
  context.reserve_scratch(linear_scratch(rows_in_a_block, columns_in_a_block));
  context.pool.parallel_for(row_blocks * column_blocks, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t m = block / column_blocks * rows_in_a_block, n = block % column_blocks * columns_in_a_block;
      LinearTask t = part(whole, element_size(weight.dtype), m, std::min(rows_in_a_block, whole.m - m), n,
                          std::min(columns_in_a_block, whole.n - n));
      t.scratch = context.scratch(worker);
      context.kernels.linear[static_cast<int>(weight.type)](t);
    }
  });
}

}  // namespace

CpuWeight::CpuWeight(const Tensor& host, DType held_as, WeightType weight_type, Context& context)
    : PreparedWeight(host.shape, held_as), type(weight_type), matrix(host) {
  if (held_as == host.dtype && (host.size(1) <= 1 || host.stride(1) == 1)) return;
  copy_ = HostBuffer(static_cast<std::size_t>(host.elements()) * element_size(held_as));
  matrix = Tensor(copy_.data(), held_as, host.shape);
  context.pool.parallel_for(host.size(0), 1, [&](std::int64_t begin, std::int64_t end, int) {
    convert(host.slice(0, begin, end - begin), matrix.slice(0, begin, end - begin));
  });
}

void linear(Context& context, const Linear& op) {
  const auto& weight = static_cast<const CpuWeight&>(*op.weight);
  const LinearTask whole = task_of(op);
  if (whole.m == 0 || whole.n == 0) return;
  if (whole.m < widen_from_rows)
    linear_few_rows(context, whole, weight);
  else
    linear_many_rows(context, whole, weight);
}

void embedding(Context& context, const Embedding& op) {
  const auto& weight = static_cast<const CpuWeight&>(*op.weight);
  const auto* ids = op.ids.as<std::int32_t>();
  const std::int64_t vocab_size = weight.shape[0], hidden_size = weight.shape[1];
  for (std::int64_t t = 0; t < op.ids.size(0); ++t)
    require(ids[t] >= 0 && ids[t] < vocab_size, "Embedding: id {} at place {} is outside [0, {})", ids[t], t,
            vocab_size);
  const std::int64_t row_bytes = weight.matrix.stride(0) * static_cast<std::int64_t>(element_size(weight.matrix.dtype));
  context.pool.parallel_for(op.ids.size(0), 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t t = begin; t < end; ++t)
      context.kernels.widen[static_cast<int>(weight.type)](weight.matrix.as<std::byte>() + ids[t] * row_bytes,
                                                           op.out.as<float>() + t * op.out.stride(0), hidden_size);
  });
}

}  // namespace mamba2::cpu
