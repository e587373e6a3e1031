#include "tests/cuda/support.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "mamba2/base/error.h"
#include "mamba2/cuda/check.h"
#include "tests/cuda/read_all.h"

namespace mamba2::cuda {
namespace {

template <class T>
void put(std::vector<std::byte>& bytes, std::size_t index, T value) {
  std::memcpy(bytes.data() + index * sizeof(T), &value, sizeof(T));
}

template <class T>
T get(const std::vector<std::byte>& bytes, std::size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

}  // namespace

double rounded_to(double value, DType dtype) {
  const auto single = static_cast<float>(value);
  if (dtype == DType::bf16) return static_cast<double>(to_float(to_bf16(single)));
  if (dtype == DType::f16) return static_cast<double>(to_float(to_f16(single)));
  if (dtype == DType::f32) return static_cast<double>(single);
  return value;
}

std::vector<double> rounded_to(const std::vector<double>& values, DType dtype) {
  std::vector<double> result(values.size());
  std::transform(values.begin(), values.end(), result.begin(), [dtype](double v) { return rounded_to(v, dtype); });
  return result;
}

std::vector<std::byte> encode(const std::vector<double>& values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * element_size(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto single = static_cast<float>(values[i]);
    if (dtype == DType::bf16) {
      put(bytes, i, to_bf16(single));
    } else if (dtype == DType::f16) {
      put(bytes, i, to_f16(single));
    } else {
      put(bytes, i, single);
    }
  }
  return bytes;
}

std::vector<double> decode(const std::vector<std::byte>& bytes, DType dtype) {
  std::vector<double> values(bytes.size() / element_size(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::bf16) {
      values[i] = static_cast<double>(to_float(get<bf16>(bytes, i)));
    } else if (dtype == DType::f16) {
      values[i] = static_cast<double>(to_float(get<f16>(bytes, i)));
    } else {
      values[i] = static_cast<double>(get<float>(bytes, i));
    }
  }
  return values;
}

double epsilon(DType dtype) {
  if (dtype == DType::bf16) return 0x1p-7;
  if (dtype == DType::f16) return 0x1p-10;
  return 0x1p-23;
}

DeviceArray::DeviceArray(std::size_t bytes) : bytes_(bytes) {
  check(cudaMalloc(&data_, std::max<std::size_t>(bytes, 16)), "allocate a test array");
  check(cudaMemset(data_, 0xFF, bytes), "poison a test array");
}

DeviceArray::DeviceArray(const std::vector<std::byte>& bytes) : DeviceArray(bytes.size()) {
  check(cudaMemcpy(data_, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "upload a test array");
}

DeviceArray::DeviceArray(const std::vector<std::int32_t>& values) : DeviceArray(values.size() * sizeof(std::int32_t)) {
  check(cudaMemcpy(data_, values.data(), bytes_, cudaMemcpyHostToDevice), "upload a test array");
}

DeviceArray::DeviceArray(DeviceArray&& other) noexcept : data_(other.data_), bytes_(other.bytes_) {
  other.data_ = nullptr;
}

DeviceArray& DeviceArray::operator=(DeviceArray&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

DeviceArray::~DeviceArray() {
  (void)cudaFree(data_);
}

std::vector<std::byte> DeviceArray::download() const {
  std::vector<std::byte> bytes(bytes_);
  check(cudaDeviceSynchronize(), "wait for a kernel under test");
  check(cudaMemcpy(bytes.data(), data_, bytes_, cudaMemcpyDeviceToHost), "download a test array");
  return bytes;
}

std::vector<double> normal_values(std::size_t count, Random& random, double deviation) {
  std::vector<double> values(count);
  for (double& value : values) value = deviation * random.normal();
  return values;
}

DeviceArray random_elements(std::size_t count, DType dtype, Random& random) {
  constexpr std::size_t period = 1 << 16, shift = 7919;  // a prime: repetitions do not line up
  const std::vector<std::byte> block = encode(normal_values(period, random), dtype);
  const std::size_t element = element_size(dtype);
  std::vector<std::byte> bytes(count * element);
  for (std::size_t i = 0; i < count; ++i)
    std::memcpy(bytes.data() + i * element, block.data() + (i + i / period * shift) % period * element, element);
  return DeviceArray(bytes);
}

std::vector<double> log_uniform_values(std::size_t count, double low, double high, Random& random) {
  std::vector<double> values(count);
  for (double& value : values) value = low * std::pow(high / low, random.uniform());
  return values;
}

int uniform_int(int low, int high, Random& random) {
  return low + static_cast<int>(random.next_u32() % static_cast<std::uint32_t>(high - low + 1));
}

double max_error(const std::vector<double>& got, const std::vector<double>& want) {
  require(got.size() == want.size(), "compared {} values with {}", got.size(), want.size());
  double largest = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - want[i]);
    if (std::isnan(error)) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, error);
  }
  return largest;
}

double root_mean_square(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value * value;
  return values.empty() ? 0.0 : std::sqrt(sum / static_cast<double>(values.size()));
}

double median_milliseconds(const std::function<void(cudaStream_t)>& enqueue) {
  constexpr int warm_up = 5, runs = 50, least_runs = 3;
  constexpr double enough = 1000;                  // milliseconds altogether
  constexpr std::size_t flush_bytes = 256U << 20;  // several times the L2 of any device so far
  const DeviceArray flush(flush_bytes);
  cudaEvent_t start{}, stop{};
  check(cudaEventCreate(&start), "create an event");
  check(cudaEventCreate(&stop), "create an event");
  std::vector<double> times;
  double spent = 0;
  for (int run = 0; run < warm_up + runs && (spent < enough || std::ssize(times) < least_runs); ++run) {
    read_all(flush.data(), flush_bytes, nullptr);  // not written: dirty lines would be charged to the kernel
    check(cudaEventRecord(start, nullptr), "record an event");
    enqueue(nullptr);
    check(cudaEventRecord(stop, nullptr), "record an event");
    check(cudaEventSynchronize(stop), "wait for a kernel");
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, start, stop), "read a time");
    spent += static_cast<double>(milliseconds);
    if (run >= warm_up || spent > enough) times.push_back(static_cast<double>(milliseconds));
  }
  (void)cudaEventDestroy(start);
  (void)cudaEventDestroy(stop);
  const auto middle = times.begin() + std::ssize(times) / 2;
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

}  // namespace mamba2::cuda
