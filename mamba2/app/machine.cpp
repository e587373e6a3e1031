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

/// Sums a buffer several times larger than any cache, each thread its own part and in it `streams` places at a time.
double read_bandwidth(int threads, std::size_t streams) {
  constexpr std::size_t bytes = 512U << 20, passes = 4;  // several, so that starting the threads is little beside them
  const std::vector<std::uint64_t> buffer(bytes / sizeof(std::uint64_t), 1);
  const std::size_t part = buffer.size() / static_cast<std::size_t>(threads), stream = part / streams;
  std::atomic<std::uint64_t> total{0};
  auto read = [&](std::size_t begin) {
    std::uint64_t sums[8] = {};
    for (std::size_t pass = 0; pass < passes; ++pass)
      for (std::size_t i = begin; i + 8 <= begin + stream; i += 8)
        for (std::size_t s = i; s < i + streams * stream; s += stream)
          for (std::size_t j = 0; j < 8; ++j) sums[j] += buffer[s + j] ^ pass;
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

/// A core waits for more lines at a time where it reads several places; with all cores at work one is often enough.
double read_bandwidth(int threads) {
  return std::max(read_bandwidth(threads, 1), read_bandwidth(threads, 4));
}

/// What a device reads and writes as it copies more than its caches hold.
double copy_bandwidth(Backend& backend) {
  constexpr std::int64_t elements = std::int64_t{1} << 28;
  constexpr int copies = 8;  // several, so that waiting for the last is little beside them
  const DeviceTensor from = backend.allocate(DType::f32, {elements}), to = backend.allocate(DType::f32, {elements});
  const HostTensor last(DType::f32, {1});
  std::vector<double> rates;
  for (int run = 0; run < repeats; ++run)
    rates.push_back(2.0 * copies * static_cast<double>(from.view.bytes()) / seconds_of([&] {
                      for (int i = 0; i < copies; ++i) backend.copy(from, to);
                      backend.download(to.view.slice(0, 0, 1), last);
                    }));
  return median(rates) * 1e-9;
}

/// Numbers in (-1, 1): some machines multiply zeros faster.
HostTensor numbers(const Shape& shape) {
  HostTensor tensor(DType::f32, shape);
  std::uint32_t state = 1;
  for (float& value : tensor.span<float>()) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31F;
  }
  return tensor;
}

/// A product large enough for a device's full rate, and how many of them make the wait for the last one little.
struct TimedProduct {
  std::int64_t rows, width;
  int times;
};

double gemm_rate(Backend& backend, DType dtype, const TimedProduct& product) {
  const auto [rows, width, times] = product;
  const HostTensor host = numbers({width, width});
  const auto weight = backend.prepare(WeightRole::linear, host, dtype);
  const DeviceTensor x = backend.upload(numbers({rows, width}), backend.activation_dtype());
  const DeviceTensor out = backend.allocate(backend.activation_dtype(), {rows, width});
  const HostTensor row(backend.activation_dtype(), {1, width});
  auto multiply = [&, times = times] {
    for (int i = 0; i < times; ++i)
      backend.run(Linear{.x = x, .weight = weight.get(), .bias = {}, .add = {}, .out = out});
    backend.download(out.view.slice(0, 0, 1), row);
  };
  constexpr double slow = 0.5;  // seconds: a backend that needs them is timed once
  std::vector<double> seconds{seconds_of(multiply)};
  if (seconds[0] < slow) seconds.clear();  // the first run warms up
  for (int run = 0; run < repeats && (seconds.empty() || seconds[0] < slow); ++run)
    seconds.push_back(seconds_of(multiply));
  return 2.0 * times * static_cast<double>(rows * width * width) / median(seconds) * 1e-9;
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
  const bool on_host = backend.device().kind == DeviceKind::host;
  const TimedProduct product = on_host ? TimedProduct{512, 2048, 1} : TimedProduct{8192, 4096, 8};
  return {.read_gb_per_s = on_host ? read_bandwidth(threads) : copy_bandwidth(backend),
          .f32_gflop_per_s = gemm_rate(backend, DType::f32, product),
          .bf16_gflop_per_s = gemm_rate(backend, DType::bf16, product),
          .s8_gflop_per_s = gemm_rate(backend, DType::q8_0, product)};
}

}  // namespace mamba2::app
