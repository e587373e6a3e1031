// The products of a prompt's layers and nothing else, back to back so that the GPU's power limit counts: what a prefill
// can't be faster than.
#include <fmt/core.h>

#include "benchmarks/cuda/bench.h"
#include "mamba2/base/error.h"
#include "mamba2/cuda/blas_lt.h"
#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

constexpr int layers = 64, hidden = 2560, inner = 5120, heads = 80, zxBC = 2 * inner + 2 * 128;  // of 2.7b

Product product_of(int rows, int inputs, int outputs, const DeviceArray& x, const void* weight) {
  Product product;
  product.rows = rows;
  product.inputs = inputs;
  product.outputs = outputs;
  product.dtype = DType::bf16;
  product.x = {x.data(), inputs};
  product.weight = {weight, inputs};
  return product;
}

void bench_products(BlasLt& blas, int rows) {
  Random random(1);
  const auto count = static_cast<std::size_t>(rows);
  const DeviceArray x = random_elements(count * inner, DType::bf16, random),
                    in = random_elements(std::size_t{zxBC + heads} * hidden, DType::bf16, random),
                    out = random_elements(std::size_t{inner} * hidden, DType::bf16, random);
  const DeviceArray projected(count * (zxBC + heads) * sizeof(float)), hidden_rows(count * hidden * sizeof(float));
  constexpr int half = 2;
  Product wide = product_of(rows, hidden, zxBC, x, in.data());
  wide.out = {projected.data(), zxBC};
  wide.out_dtype = DType::bf16;
  Product dt = product_of(rows, hidden, heads, x, static_cast<const std::byte*>(in.data()) + zxBC * hidden * half);
  dt.out = {static_cast<std::byte*>(projected.data()) + count * zxBC * half, heads};
  Product back = product_of(rows, inner, hidden, x, out.data());
  back.add = {hidden_rows.data(), hidden};
  back.out = {hidden_rows.data(), hidden};
  const double milliseconds = median_milliseconds([&](cudaStream_t stream) {
    for (int layer = 0; layer < layers; ++layer)
      for (const Product* product : {&dt, &wide, &back})
        require(blas.multiply(*product, stream), "cuBLASLt has no way for {} x {} x {}", product->rows, product->inputs,
                product->outputs);
  });
  const double flop = 2.0 * rows * layers * (double{zxBC + heads} * hidden + double{inner} * hidden);
  report(fmt::format("products of 2.7b's layers, {} tokens", rows), milliseconds,
         2.0 * layers * (double{zxBC + heads} * hidden + double{inner} * hidden),
         fmt::format("{:.0f} TFLOP/s", flop / milliseconds * 1e-9));
}

}  // namespace

void bench_prompt_products() {
  std::string why;
  const std::unique_ptr<BlasLt> blas = BlasLt::open(why);
  require(blas != nullptr, "{}", why);
  for (const int rows : {512, 1024, 4096, 8192}) bench_products(*blas, rows);
}

}  // namespace mamba2::cuda
