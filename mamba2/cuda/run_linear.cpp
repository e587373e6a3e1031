// Embedding and Linear: which kernel or library call takes which product.
#include <optional>

#include "mamba2/cuda/context.h"
#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/rows.h"
#include "mamba2/cuda/token_ops.h"

namespace mamba2::cuda {
namespace {

// Elements of a weight below which a library call costs more than our own kernel, which also rounds nothing.
constexpr std::int64_t least_library_elements = std::int64_t{1} << 16;

const Tensor& matrix_of(const PreparedWeight* weight) {
  return static_cast<const CudaWeight*>(weight)->matrix;
}

std::size_t padded(std::size_t bytes) {
  constexpr std::size_t step = 256;
  return (bytes + step - 1) / step * step;
}

Product product_of(const LinearRows& op) {
  return {.rows = op.rows,
          .inputs = op.inputs,
          .outputs = op.outputs,
          .dtype = op.weight_dtype,
          .x = op.x,
          .weight = op.weight,
          .bias = op.bias,
          .add = op.add,
          .out = op.out};
}

/// The product of x rounded to bf16, as the rows of a norm that waits already are: on our own kernel or by cuBLASLt.
bool in_bf16(Context& context, const LinearRows& op, const std::optional<WaitingNorm>& norm) {
  const std::size_t bytes = static_cast<std::size_t>(op.rows) * static_cast<std::size_t>(op.inputs) * 2;
  LinearRows rounded = op;
  rounded.x = {context.scratch(bytes), op.inputs};
  rounded.x_dtype = DType::bf16;
  const bool streamed = linear_streamed_takes(rounded);
  if (!streamed && (context.blas == nullptr || !BlasLt::takes(product_of(rounded)))) return false;
  const Rows place{const_cast<void*>(rounded.x.data), op.inputs};
  if (norm) {
    context.launch_norm(*norm, place);
  } else {
    round_rows({.rows = op.rows, .width = op.inputs, .x = op.x, .out_dtype = DType::bf16, .out = place},
               context.stream());
  }
  if (streamed) {
    linear_streamed(rounded, context.stream());
    return true;
  }
  return context.blas->multiply(product_of(rounded), context.stream());
}

/// By cuBLASLt with x rounded to f16, rows past its range scaled down; false where it can't.
bool in_f16(Context& context, const LinearRows& op) {
  const auto count = static_cast<std::size_t>(op.rows);
  const std::size_t x_bytes = padded(count * static_cast<std::size_t>(op.inputs) * element_size(op.weight_dtype));
  const std::size_t scale_bytes = padded(count * sizeof(float));
  const std::size_t out_bytes = count * static_cast<std::size_t>(op.outputs) * sizeof(float);
  auto* const scratch = static_cast<std::byte*>(context.scratch(x_bytes + scale_bytes + out_bytes));
  auto* const row_scale = reinterpret_cast<float*>(scratch + x_bytes);
  Product product = product_of(op);
  product.x = {scratch, op.inputs};
  if (context.blas == nullptr || !BlasLt::takes(product)) return false;
  round_rows({.rows = op.rows,
              .width = op.inputs,
              .x = op.x,
              .out_dtype = op.weight_dtype,
              .out = {scratch, op.inputs},
              .row_scale = row_scale},
             context.stream());
  product.bias = nullptr;
  product.add = {};
  product.out = {scratch + x_bytes + scale_bytes, op.outputs};
  if (!context.blas->multiply(product, context.stream())) return false;
  finish_rows({.rows = op.rows,
               .width = op.outputs,
               .row_scale = row_scale,
               .bias = op.bias,
               .products = {product.out.data, product.out.stride},
               .add = op.add,
               .out = op.out},
              context.stream());
  return true;
}

/// More rows than few; a norm of them that waits is launched here.
void many_rows(Context& context, const LinearRows& op, const std::optional<WaitingNorm>& norm) {
  const bool large = std::int64_t{op.inputs} * op.outputs >= least_library_elements;
  const bool rounds = large && op.weight_dtype != DType::f32 && context.rounds();
  if (rounds && op.weight_dtype == DType::bf16 && in_bf16(context, op, norm)) return;
  if (norm) context.launch_norm(*norm);
  if (rounds && op.weight_dtype == DType::f16 && in_f16(context, op)) return;
  const bool f32_by_library =
      large && op.weight_dtype == DType::f32 && context.blas != nullptr && BlasLt::takes(product_of(op));
  if (f32_by_library && context.blas->multiply(product_of(op), context.stream())) return;
  linear_tiled(op, context.stream());
}

}  // namespace

void embedding(Context& context, const mamba2::Embedding& op) {
  const Tensor& table = matrix_of(op.weight);
  embedding({.tokens = op.ids.size(0),
             .width = extent(table.size(1), "hidden_size"),
             .vocab_size = table.size(0),
             .ids = op.ids.as<std::int32_t>(),
             .table = const_rows(table),
             .dtype = table.dtype,
             .out = rows(op.out),
             .out_dtype = DType::f32},
            context.stream());
}

void linear(Context& context, const mamba2::Linear& op) {
  if (op.x.size(0) == 0 || op.out.size(1) == 0) return context.finish_norm();
  const Tensor& weight = matrix_of(op.weight);
  const std::optional<WaitingNorm> norm = context.take_norm(op);
  LinearRows product{.rows = op.x.size(0),
                     .inputs = extent(weight.size(1), "a weight's columns"),
                     .outputs = extent(weight.size(0), "a weight's rows"),
                     .x = const_rows(op.x),
                     .weight = const_rows(weight),
                     .weight_dtype = weight.dtype,
                     .bias = floats(op.bias),
                     .add = const_rows(op.add),
                     .out = rows(op.out),
                     .norm = {}};
  if (product.rows > few_rows_limit) return many_rows(context, product, norm);
  if (norm) {
    product.x = norm->x;
    product.norm = {.weight = norm->weight, .eps = norm->eps, .normed = norm->out};
  }
  if (linear_streamed_takes(product)) return linear_streamed(product, context.stream());
  linear_few_rows(product, context.stream());
}

}  // namespace mamba2::cuda
