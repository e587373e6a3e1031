#include <algorithm>

#include "mamba2/base/error.h"
#include "mamba2/cpu/context.h"

namespace mamba2::cpu {
namespace {

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

/// Calls body(m, rows, n, columns, worker) for the blocks of a plan.
template <class Body>
void for_blocks(Context& context, const LinearPlan& plan, std::int64_t m, std::int64_t n, Body&& body) {
  const std::int64_t row_blocks = (m + plan.rows_in_block - 1) / plan.rows_in_block;
  const std::int64_t column_blocks = (n + plan.columns_in_block - 1) / plan.columns_in_block;
  context.pool.parallel_for(row_blocks * column_blocks, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t row = block / column_blocks * plan.rows_in_block;
      const std::int64_t column = block % column_blocks * plan.columns_in_block;
      body(row, std::min(plan.rows_in_block, m - row), column, std::min(plan.columns_in_block, n - column), worker);
    }
  });
}

void linear_widened(Context& context, const LinearPlan& plan, const LinearTask& whole, const CpuWeight& weight) {
  context.reserve_scratch(linear_scratch(std::min(plan.rows_in_block, whole.m), plan.columns_in_block));
  for_blocks(context, plan, whole.m, whole.n,
             [&](std::int64_t m, std::int64_t rows, std::int64_t n, std::int64_t columns, int worker) {
               LinearTask t = part(whole, element_size(weight.dtype), m, rows, n, columns);
               t.scratch = context.scratch(worker);
               context.kernels.linear[static_cast<int>(weight.type)](t);
             });
}

/// What becomes of x, and the product by it.
struct Bf16Form {
  std::int64_t parts;
  void (*round_rows)(const RoundTask&);
  void (*multiply)(const RoundedLinearTask&);
  std::int64_t scratch;
};

/// All rows of x as bf16, by all threads.
const std::uint16_t* rounded_rows(Context& context, const LinearTask& whole, const Bf16Form& form) {
  const std::int64_t groups = (whole.m + rows_in_a_group - 1) / rows_in_a_group;
  const std::int64_t group_elements = form.parts * rounded_elements(whole.k);
  auto* const to = static_cast<std::uint16_t*>(
      context.shared_scratch(static_cast<std::size_t>(groups * group_elements) * sizeof(std::uint16_t)));
  context.pool.parallel_for(groups, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t group = begin; group < end; ++group) {
      const std::int64_t m = group * rows_in_a_group;
      form.round_rows({.x = whole.x + m * whole.x_stride,
                       .x_stride = whole.x_stride,
                       .rows = std::min(rows_in_a_group, whole.m - m),
                       .k = whole.k,
                       .to = to + group * group_elements});
    }
  });
  return to;
}

void linear_in_bf16(Context& context, const LinearPlan& plan, const LinearTask& whole, const Bf16Form& form) {
  const std::uint16_t* const x = rounded_rows(context, whole, form);
  context.reserve_scratch(form.scratch);
  for_blocks(context, plan, whole.m, whole.n,
             [&](std::int64_t m, std::int64_t rows, std::int64_t n, std::int64_t columns, int worker) {
               const LinearTask t = part(whole, sizeof(std::uint16_t), m, rows, n, columns);
               form.multiply({.x = x + m / rows_in_a_group * form.parts * rounded_elements(t.k),
                              .m = t.m,
                              .w = static_cast<const std::uint16_t*>(t.w),
                              .w_stride = t.w_stride,
                              .n = t.n,
                              .k = t.k,
                              .bias = t.bias,
                              .add = t.add,
                              .add_stride = t.add_stride,
                              .out = t.out,
                              .out_stride = t.out_stride,
                              .scratch = context.scratch(worker)});
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
  const LinearPlan plan = linear_plan(whole.m, whole.n, whole.k, weight.type, context.linear_machine);
  const Kernels& kernels = context.kernels;
  switch (plan.form) {
    case LinearForm::widened: return linear_widened(context, plan, whole, weight);
    case LinearForm::rounded:
      return linear_in_bf16(context, plan, whole,
                            {1, kernels.round_rows, kernels.linear_rounded,
                             rounded_scratch(std::min(plan.rows_in_block, whole.m), plan.columns_in_block, whole.k)});
    case LinearForm::split:
      return linear_in_bf16(context, plan, whole,
                            {2, kernels.split_rows, kernels.linear_split, split_scratch(whole.k)});
  }
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
