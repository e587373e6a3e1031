// Times the CUDA kernels: medians of fifty runs by device events, L2 filled with other data before each.
//   cuda_bench [NAME...]      all, or those named
#include "benchmarks/cuda/bench.h"

#include <fmt/core.h>

#include <exception>
#include <functional>
#include <map>

#include "mamba2/base/error.h"
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

int run(int count, char** arguments) {
  const std::map<std::string, std::function<void()>> benchmarks{{"decode", bench_decode},
                                                                {"decode_chain", bench_decode_chain},
                                                                {"rows", bench_rows},
                                                                {"ssd_scan", bench_ssd_scan}};
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "find a device");
  fmt::print("device {}, copy {:.0f} GB/s\n", properties.name, copy_bandwidth() * 1e-9);
  for (int i = 1; i < count; ++i)
    require(benchmarks.contains(arguments[i]), "no benchmark is called {}", printable(arguments[i]));
  for (const auto& [name, benchmark] : benchmarks) {
    bool wanted = count == 1;
    for (int i = 1; i < count; ++i) wanted = wanted || name == arguments[i];
    if (wanted) benchmark();
  }
  return 0;
}

}  // namespace

double copy_bandwidth() {
  static const double bandwidth = measure_copy();
  return bandwidth;
}

void report(const std::string& what, double milliseconds, double bytes, const std::string& note) {
  const double rate = bytes / (milliseconds * 1e-3);
  fmt::print("{:<58} {:9.4f} ms {:7.0f} GB/s {:5.1f} % {}\n", what, milliseconds, rate * 1e-9,
             100.0 * rate / copy_bandwidth(), note);
}

}  // namespace mamba2::cuda

int main(int count, char** arguments) {
  try {
    return mamba2::cuda::run(count, arguments);
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
