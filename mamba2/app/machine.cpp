#include "mamba2/app/machine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <thread>
#include <vector>

namespace mamba2::app {
namespace {

constexpr int repeats = 5;

double seconds_of(const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Sums a buffer several times larger than any cache, each thread its own part, as weights are read.
double read_bandwidth(int threads) {
  constexpr std::size_t bytes = 512U << 20, passes = 4;  // several, so that starting the threads is little beside them
  const std::vector<std::uint64_t> buffer(bytes / sizeof(std::uint64_t), 1);
  const std::size_t part = buffer.size() / static_cast<std::size_t>(threads);
  std::atomic<std::uint64_t> total{0};
  auto read = [&](std::size_t begin) {
    std::uint64_t sums[8] = {};
    for (std::size_t pass = 0; pass < passes; ++pass)
      for (std::size_t i = begin; i + 8 <= begin + part; i += 8)
        for (std::size_t j = 0; j < 8; ++j) sums[j] += buffer[i + j] ^ pass;
    for (const std::uint64_t sum : sums) total += sum;
  };
  std::vector<double> rates;
  for (int run = 0; run < repeats; ++run)
    rates.push_back(static_cast<double>(bytes * passes) / seconds_of([&] {
                      std::vector<std::thread> workers;
                      for (int t = 0; t < threads; ++t) workers.emplace_back(read, static_cast<std::size_t>(t) * part);
                      for (std::thread& worker : workers) worker.join();
                    }));
  return median(rates) * 1e-9;
}

double gemm_rate(Backend& backend, DType dtype) {
  constexpr std::int64_t rows = 512, width = 2048;
  const HostTensor host(dtype, {width, width});
  const auto weight = backend.prepare(WeightRole::linear, host, dtype);
  const DeviceTensor x = backend.allocate(backend.activation_dtype(), {rows, width});
  const DeviceTensor out = backend.allocate(backend.activation_dtype(), {rows, width});
  const HostTensor row(backend.activation_dtype(), {1, width});
  auto multiply = [&] {
    backend.run(Linear{.x = x, .weight = weight.get(), .bias = {}, .add = {}, .out = out});
    backend.download(out.view.slice(0, 0, 1), row);
  };
  constexpr double slow = 0.5;  // seconds: a backend that needs them is timed once
  std::vector<double> times{seconds_of(multiply)};
  if (times[0] < slow) times.clear();  // the first run warms up
  for (int run = 0; run < repeats && (times.empty() || times[0] < slow); ++run) times.push_back(seconds_of(multiply));
  return 2.0 * static_cast<double>(rows * width * width) / median(times) * 1e-9;
}

}  // namespace

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name") && line.find(": ") != std::string::npos) return line.substr(line.find(": ") + 2);
  return "unknown";
}

MachineLimits measure_limits(Backend& backend, int threads) {
  return {.read_gb_per_s = read_bandwidth(threads),
          .f32_gflop_per_s = gemm_rate(backend, DType::f32),
          .bf16_gflop_per_s = gemm_rate(backend, DType::bf16),
          .s8_gflop_per_s = gemm_rate(backend, DType::q8_0)};
}

}  // namespace mamba2::app
