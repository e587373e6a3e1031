#include "mamba2/cuda/run_prompt.h"

#include <optional>

#include "mamba2/base/error.h"
#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/norm.h"
#include "mamba2/cuda/run_layers.h"

namespace mamba2::cuda {
namespace {

/// The memory of f32 rows as as many rows in bf16, without gaps.
Rows halved(const Tensor& tensor, std::int64_t width) {
  return {tensor.data, width};
}
/// What lies behind those: a row has (tensor's width - width) elements of f32 there.
Rows behind_halved(const Tensor& tensor, std::int64_t width) {
  constexpr std::int64_t element = 2, alignment = 16;
  const std::int64_t bytes = (tensor.size(0) * width * element + alignment - 1) / alignment * alignment;
  return {static_cast<std::byte*>(tensor.data) + bytes, tensor.size(1) - width};
}

ConstRows read(const Rows& rows) {
  return {rows.data, rows.stride};
}

Product product_of(const Rows& x, const Tensor& weight, std::int64_t rows) {
  Product product;
  product.rows = rows;
  product.inputs = weight.size(1);
  product.outputs = weight.size(0);
  product.dtype = DType::bf16;
  product.x = read(x);
  product.weight = const_rows(weight);
  return product;
}

/// A layer's products.
struct PromptProducts {
  explicit PromptProducts(const MixerLayer& layer) {
    const std::int64_t tokens = layer.norm.x.size(0), heads = layer.mixer.ssm_state.size(1);
    const Tensor &projected = layer.in_proj.out, &in = matrix_of(*layer.in_proj.weight),
                 &out = matrix_of(*layer.out_proj.weight);
    const std::int64_t zxBC_width = projected.size(1) - heads;
    const Rows normed = halved(layer.norm.out, in.size(1));
    if (tokens >= least_halved_tokens) {
      zxBC = product_of(normed, in.slice(0, 0, zxBC_width), tokens);
      zxBC.out = halved(projected, zxBC_width);
      zxBC.out_dtype = DType::bf16;
      dt = product_of(normed, in.slice(0, zxBC_width, heads), tokens);
      dt->out = behind_halved(projected, zxBC_width);
    } else {
      zxBC = product_of(normed, in, tokens);
      zxBC.out = rows(projected);
    }
    out_proj = product_of(halved(layer.mixer.out, out.size(1)), out, tokens);
    out_proj.bias = floats(layer.out_proj.bias);
    out_proj.add = const_rows(layer.out_proj.add);
    out_proj.out = rows(layer.out_proj.out);
  }

  PromptRows rows_between(const MixerLayer& layer) const {
    const std::int64_t inner = out_proj.inputs, heads = layer.mixer.ssm_state.size(1);
    const auto* const first = static_cast<const std::byte*>(zxBC.out.data);
    const auto element = static_cast<std::int64_t>(element_size(zxBC.out_dtype));
    const ConstRows last_columns{first + (layer.in_proj.out.size(1) - heads) * element, zxBC.out.stride};
    return {.dtype = zxBC.out_dtype,
            .out_dtype = DType::bf16,
            .z = {first, zxBC.out.stride},
            .xBC = {first + inner * element, zxBC.out.stride},
            .dt_raw = dt ? read(dt->out) : last_columns,
            .out = halved(layer.mixer.out, inner)};
  }

  Product zxBC;               // and dt, where that has none of its own
  std::optional<Product> dt;  // in f32
  Product out_proj;
};

/// A matrix that large products meet in bf16.
bool is_taken(const Tensor& matrix) {
  return matrix.dtype == DType::bf16 && matrix.elements() >= least_library_elements;
}

bool takes(BlasLt& blas, const Product& product) {
  return BlasLt::takes(product) && blas.knows(product);
}

void multiply(Context& context, const Product& product) {
  require(context.blas->multiply(product, context.stream()), "CUDA: cuBLASLt has no way for {} x {} x {} any more",
          product.rows, product.inputs, product.outputs);
}

}  // namespace

bool prompt_layer_takes(Context& context, const MixerLayer& layer) {
  const bool dense = layer.norm.out.contiguous() && layer.in_proj.out.contiguous() && layer.mixer.out.contiguous();
  const bool plain = layer.in_proj.bias.empty() && layer.in_proj.add.empty();
  if (!hands_on(layer) || !dense || !plain || !is_taken(matrix_of(*layer.in_proj.weight)) ||
      !is_taken(matrix_of(*layer.out_proj.weight)) || context.blas == nullptr ||
      !prompt_mixer_takes(context, layer.mixer))
    return false;
  const PromptProducts products(layer);
  return takes(*context.blas, products.zxBC) && (!products.dt || takes(*context.blas, *products.dt)) &&
         takes(*context.blas, products.out_proj);
}

void prompt_layer(Context& context, const MixerLayer& layer) {
  const PromptProducts products(layer);
  RmsNorm norm;
  norm.rows = products.zxBC.rows;
  norm.width = extent(layer.norm.x.size(1), "hidden_size");
  norm.eps = static_cast<float>(layer.norm.eps);
  norm.x = const_rows(layer.norm.x);
  norm.weight = floats(layer.norm.weight);
  norm.rounded = halved(layer.norm.out, norm.width);
  rms_norm(norm, context.stream());
  if (products.dt) multiply(context, *products.dt);  // while the norm's rows are in the cache
  multiply(context, products.zxBC);
  prompt_mixer(context, layer.mixer, products.rows_between(layer));
  multiply(context, products.out_proj);
}

}  // namespace mamba2::cuda
