// Times the CUDA kernels: medians of fifty runs by device events, L2 filled with other data before each.
//   cuda_bench [--json] [NAME...]      all, or those named
#include "benchmarks/cuda/bench.h"

#include <fmt/core.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/cuda/blas_lt.h"
#include "mamba2/cuda/check.h"
#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

double measure_copy() {
  constexpr std::size_t bytes = std::size_t{2} << 30;
  const DeviceArray from(bytes), to(bytes);
  const double milliseconds = median_milliseconds([&](cudaStream_t stream) {
    check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream), "copy");
  });
  return 2.0 * static_cast<double>(bytes) / (milliseconds * 1e-3);
}

/// bf16 products of 8192 x 8192 x 8192 by cuBLASLt; 0 where it is not there.
double measure_products() {
  constexpr int size = 8192;
  constexpr std::size_t elements = std::size_t{size} * size;
  std::string why;
  const std::unique_ptr<BlasLt> blas = BlasLt::open(why);
  if (blas == nullptr) return 0;
  Random random(1);
  const DeviceArray x = random_elements(elements, DType::bf16, random),
                    weight = random_elements(elements, DType::bf16, random), out(elements * sizeof(float));
  const Product product{.rows = size,
                        .inputs = size,
                        .outputs = size,
                        .dtype = DType::bf16,
                        .x = {x.data(), size},
                        .weight = {weight.data(), size},
                        .add = {},
                        .out = {out.data(), size}};
  const double milliseconds = median_milliseconds([&](cudaStream_t stream) {
    require(blas->multiply(product, stream), "cuBLASLt has no way for a product of {} cubed", size);
  });
  return 2.0 * static_cast<double>(elements) * size / (milliseconds * 1e-3);
}

bool prints_json = false;

int run(std::vector<std::string> wanted) {
  prints_json = std::erase(wanted, "--json") > 0;
  const std::map<std::string, std::function<void()>> benchmarks{{"decode", bench_decode},
                                                                {"decode_chain", bench_decode_chain},
                                                                {"decode_layers", bench_decode_layers},
                                                                {"lengths", bench_lengths},
                                                                {"packed", bench_packed},
                                                                {"prompt_products", bench_prompt_products},
                                                                {"rows", bench_rows},
                                                                {"ssd_scan", bench_ssd_scan},
                                                                {"states", bench_states}};
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "find a device");
  for (const std::string& name : wanted)
    require(benchmarks.contains(name), "no benchmark is called {}", printable(name));
  const double products = measure_products();
  if (prints_json)
    fmt::print("{{\"device\": \"{}\", \"copy_bytes_per_s\": {:.4g}, \"product_flop_per_s\": {:.4g}}}\n",
               properties.name, copy_bandwidth(), products);
  else
    fmt::print("device {}, copy {:.0f} GB/s, bf16 products {:.0f} TFLOP/s\n", properties.name, copy_bandwidth() * 1e-9,
               products * 1e-12);
  for (const auto& [name, benchmark] : benchmarks)
    if (wanted.empty() || std::ranges::count(wanted, name) > 0) benchmark();
  return 0;
}

}  // namespace

double copy_bandwidth() {
  static const double bandwidth = measure_copy();
  return bandwidth;
}

void report(const std::string& what, double milliseconds, double bytes, const std::string& note) {
  const double rate = bytes / (milliseconds * 1e-3);
  if (prints_json) {
    fmt::print("{{\"name\": \"{}\", \"ms\": {:.5g}, \"bytes\": {:.6g}, \"note\": \"{}\"}}\n", what, milliseconds, bytes,
               note);
    return;
  }
  fmt::print("{:<58} {:9.4f} ms {:7.0f} GB/s {:5.1f} % {}\n", what, milliseconds, rate * 1e-9,
             100.0 * rate / copy_bandwidth(), note);
}

void report(const LengthRow& row) {
  if (!prints_json)
    return report(fmt::format("{} of {} tokens", row.kernel, row.tokens), row.milliseconds, row.bytes,
                  fmt::format("{:.1f} TFLOP/s", row.flop / row.milliseconds * 1e-9));
  fmt::print("{{\"kernel\": \"{}\", \"tokens\": {}, \"ms\": {:.5g}, \"bytes\": {:.6g}, \"flop\": {:.6g}}}\n",
             row.kernel, row.tokens, row.milliseconds, row.bytes, row.flop);
}

}  // namespace mamba2::cuda

int main(int count, char** arguments) {
  try {
    return mamba2::cuda::run({arguments + 1, arguments + count});
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
