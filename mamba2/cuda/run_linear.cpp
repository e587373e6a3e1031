// Embedding and Linear: which kernel or library call takes which product.
#include <algorithm>
#include <optional>

#include "mamba2/cuda/context.h"
#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/packed_weight.h"
#include "mamba2/cuda/rows.h"
#include "mamba2/cuda/token_ops.h"
#include "mamba2/cuda/unpack_rows.h"

namespace mamba2::cuda {
namespace {

bool is_large(const LinearRows& op) {
  return std::int64_t{op.inputs} * op.outputs >= least_library_elements;
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

std::size_t bytes_in_bf16(const LinearRows& op) {
  return static_cast<std::size_t>(op.rows) * static_cast<std::size_t>(op.inputs) * 2;
}

/// The product with x in bf16 at that place, still to be written.
LinearRows with_rounded_x(const LinearRows& op, void* place) {
  LinearRows rounded = op;
  rounded.x = {place, op.inputs};
  rounded.x_dtype = DType::bf16;
  return rounded;
}

/// Writes x rounded to bf16 there, as the rows of a norm that waits or of their own.
void round_x(Context& context, const LinearRows& op, const std::optional<WaitingNorm>& norm, void* place) {
  const Rows out{place, op.inputs};
  if (norm) return context.launch_norm(*norm, out);
  round_rows({.rows = op.rows, .width = op.inputs, .x = op.x, .out_dtype = DType::bf16, .out = out}, context.stream());
}

/// The product of x rounded to bf16: on our own kernel or by cuBLASLt.
bool in_bf16(Context& context, const LinearRows& op, const std::optional<WaitingNorm>& norm) {
  void* const place = context.scratch(bytes_in_bf16(op));
  const LinearRows rounded = with_rounded_x(op, place);
  const bool streamed = linear_streamed_takes(rounded);
  if (!streamed && (context.blas == nullptr || !BlasLt::takes(product_of(rounded)))) return false;
  round_x(context, op, norm, place);
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

/// The outputs from `first` on, of a weight of its own.
LinearRows some_outputs(const LinearRows& op, std::int64_t first, std::int64_t count, const ConstRows& weight) {
  LinearRows part = op;
  part.outputs = static_cast<int>(count);
  part.weight = weight;
  part.out.data = static_cast<float*>(op.out.data) + first;
  if (op.bias != nullptr) part.bias = op.bias + first;
  if (op.add.data != nullptr) part.add.data = static_cast<const float*>(op.add.data) + first;
  return part;
}

/// Rows of a packed weight that are unpacked at a time: all layers share their place, which does not grow with the
/// largest weight.
std::int64_t outputs_at_a_time(const LinearRows& op, std::size_t element_bytes) {
  constexpr std::size_t most_bytes = std::size_t{64} << 20;
  constexpr std::int64_t least = 256;  // what a tile of the library's has
  const std::size_t row_bytes = static_cast<std::size_t>(op.inputs) * element_bytes;
  const auto fitting = static_cast<std::int64_t>(most_bytes / row_bytes) / least * least;
  return std::min<std::int64_t>(std::max(fitting, least), op.outputs);
}

/// The product with a packed weight that is unpacked for it, a part of its rows after the other: to bf16 beside x in
/// bf16 where the library multiplies those, else to f32.
void with_unpacked_weight(Context& context, const LinearRows& op, const std::optional<WaitingNorm>& norm) {
  const bool library = is_large(op) && context.blas != nullptr;
  const DType dtype = library && context.rounds() ? DType::bf16 : DType::f32;
  const std::size_t x_bytes = dtype == DType::bf16 ? padded(bytes_in_bf16(op)) : 0;
  const std::int64_t at_a_time = outputs_at_a_time(op, element_size(dtype));
  const std::size_t weight_bytes =
      static_cast<std::size_t>(at_a_time) * static_cast<std::size_t>(op.inputs) * element_size(dtype);
  auto* const scratch = static_cast<std::byte*>(context.scratch(x_bytes + weight_bytes));
  LinearRows exact = op;
  exact.weight_dtype = dtype;
  if (norm && dtype == DType::f32) context.launch_norm(*norm);
  if (dtype == DType::bf16) round_x(context, op, norm, scratch);
  const LinearRows rounded = with_rounded_x(exact, scratch);
  for (std::int64_t first = 0; first < op.outputs; first += at_a_time) {
    const std::int64_t count = std::min<std::int64_t>(at_a_time, op.outputs - first);
    const Rows unpacked{scratch + x_bytes, op.inputs};
    unpack_rows({.count = count,
                 .columns = op.inputs,
                 .weight = op.weight.data,
                 .weight_dtype = op.weight_dtype,
                 .weight_rows = op.outputs,
                 .first = first,
                 .ids = nullptr,
                 .out = unpacked,
                 .out_dtype = dtype},
                context.stream());
    const ConstRows weight{unpacked.data, unpacked.stride};
    const Product product = product_of(some_outputs(dtype == DType::bf16 ? rounded : exact, first, count, weight));
    if (library && BlasLt::takes(product) && context.blas->multiply(product, context.stream())) continue;
    linear_tiled(some_outputs(exact, first, count, weight), context.stream());
  }
}

/// Any number of rows and a packed weight; few take a norm along, else it is launched here.
void with_packed_weight(Context& context, const LinearRows& op, const std::optional<WaitingNorm>& norm) {
  if (op.rows <= few_rows_limit) return linear_packed(op, context.stream());
  if (op.rows > packed_rows_limit) return with_unpacked_weight(context, op, norm);
  if (is_large(op) && context.rounds()) {
    void* const place = context.scratch(bytes_in_bf16(op));
    round_x(context, op, norm, place);
    return linear_packed(with_rounded_x(op, place), context.stream());
  }
  if (norm) context.launch_norm(*norm);
  linear_packed(op, context.stream());
}

/// More rows than few; a norm of them that waits is launched here.
void many_rows(Context& context, const LinearRows& op, const std::optional<WaitingNorm>& norm) {
  const bool large = is_large(op);
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
  const Tensor& table = matrix_of(*op.weight);
  const int width = extent(table.size(1), "hidden_size");
  if (is_packed(table.dtype))
    return unpack_rows({.count = op.ids.size(0),
                        .columns = width,
                        .weight = table.data,
                        .weight_dtype = table.dtype,
                        .weight_rows = table.size(0),
                        .ids = op.ids.as<std::int32_t>(),
                        .out = rows(op.out),
                        .out_dtype = DType::f32},
                       context.stream());
  embedding({.tokens = op.ids.size(0),
             .width = width,
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
  const Tensor& weight = matrix_of(*op.weight);
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
  if (norm && product.rows <= few_rows_limit) {
    product.x = norm->x;
    product.norm = {.weight = norm->weight, .eps = norm->eps, .normed = norm->out};
  }
  if (is_packed(weight.dtype)) return with_packed_weight(context, product, norm);
  if (product.rows > few_rows_limit) return many_rows(context, product, norm);
  if (linear_streamed_takes(product)) return linear_streamed(product, context.stream());
  linear_few_rows(product, context.stream());
}

}  // namespace mamba2::cuda
