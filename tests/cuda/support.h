#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "mamba2/base/random.h"
#include "mamba2/tensor/dtype.h"

namespace mamba2::cuda {

/// Elements rounded to a floating dtype, as bytes; and back.
std::vector<std::byte> encode(const std::vector<double>& values, DType dtype);
std::vector<double> decode(const std::vector<std::byte>& bytes, DType dtype);
/// Each value as the dtype holds it.
std::vector<double> rounded_to(const std::vector<double>& values, DType dtype);
double rounded_to(double value, DType dtype);
/// Distance from 1 to the next value.
double epsilon(DType dtype);

/// Device memory, owned.  Fresh memory is poisoned: every byte 0xFF, a NaN in every floating dtype.
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t bytes);
  explicit DeviceArray(const std::vector<std::byte>& bytes);
  DeviceArray(const std::vector<double>& values, DType dtype) : DeviceArray(encode(values, dtype)) {}
  explicit DeviceArray(const std::vector<std::int32_t>& values);
  DeviceArray(DeviceArray&& other) noexcept;
  DeviceArray& operator=(DeviceArray&& other) noexcept;
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray();

  void* data() const { return data_; }
  const float* floats() const { return static_cast<const float*>(data_); }
  const std::int32_t* ints() const { return static_cast<const std::int32_t*>(data_); }
  std::size_t size() const { return bytes_; }
  std::vector<std::byte> download() const;
  std::vector<double> download(DType dtype) const { return decode(download(), dtype); }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

std::vector<double> normal_values(std::size_t count, Random& random, double deviation = 1.0);
/// Normal values on the device, for benchmarks: a few thousand drawn and repeated out of step, since gigabytes take
/// minutes.
DeviceArray random_elements(std::size_t count, DType dtype, Random& random);
/// Evenly spread logarithms.
std::vector<double> log_uniform_values(std::size_t count, double low, double high, Random& random);
/// In [low, high].
int uniform_int(int low, int high, Random& random);

/// Largest |got - want|; infinity where got holds a NaN.
double max_error(const std::vector<double>& got, const std::vector<double>& want);
double root_mean_square(const std::vector<double>& values);

/// Median milliseconds of fifty runs by device events after five that are not counted, the L2 cache filled with other
/// data before each.  Of fewer, three at least, where those take more than a second.
double median_milliseconds(const std::function<void(cudaStream_t)>& enqueue);

}  // namespace mamba2::cuda
