// Embedding and Linear: which kernel or library call takes which product.
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

/// The product by cuBLASLt; false where it can't.
bool by_library(Context& context, const LinearRows& op) {
  if (context.blas == nullptr || std::int64_t{op.inputs} * op.outputs < least_library_elements) return false;
  Product product{.rows = op.rows,
                  .inputs = op.inputs,
                  .outputs = op.outputs,
                  .dtype = op.weight_dtype,
                  .x = op.x,
                  .weight = op.weight,
                  .bias = op.bias,
                  .add = op.add,
                  .out = op.out};
  if (op.weight_dtype == DType::f32) return BlasLt::takes(product) && context.blas->multiply(product, context.stream());
  if (!context.rounds()) return false;
  const auto count = static_cast<std::size_t>(op.rows);
  const std::size_t x_bytes = padded(count * static_cast<std::size_t>(op.inputs) * element_size(op.weight_dtype));
  const bool scaled = op.weight_dtype == DType::f16;
  const std::size_t scale_bytes = scaled ? padded(count * sizeof(float)) : 0;
  const std::size_t out_bytes = scaled ? count * static_cast<std::size_t>(op.outputs) * sizeof(float) : 0;
  auto* const scratch = static_cast<std::byte*>(context.scratch(x_bytes + scale_bytes + out_bytes));
  auto* const row_scale = scaled ? reinterpret_cast<float*>(scratch + x_bytes) : nullptr;
  product.x = {scratch, op.inputs};
  if (!BlasLt::takes(product)) return false;
  round_rows({.rows = op.rows,
              .width = op.inputs,
              .x = op.x,
              .out_dtype = op.weight_dtype,
              .out = {scratch, op.inputs},
              .row_scale = row_scale},
             context.stream());
  if (!scaled) return context.blas->multiply(product, context.stream());
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
  if (norm) {
    product.x = norm->x;
    product.norm = {.weight = norm->weight, .eps = norm->eps, .normed = norm->out};
  }
  if (product.rows <= few_rows_limit) return linear_few_rows(product, context.stream());
  if (!by_library(context, product)) linear_tiled(product, context.stream());
}

}  // namespace mamba2::cuda
