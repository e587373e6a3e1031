#pragma once

#include <string>
#include <vector>

#include "mamba2/ops/backend.h"

namespace mamba2::app {

/// "AMD EPYC 9354" from /proc/cpuinfo, "unknown" where that can't be read.
std::string processor_name();

/// What the machine can do at most, measured now: the median of several short runs.
struct MachineLimits {
  double read_gb_per_s = 0;     ///< of memory; for a device, read and written by a copy
  double f32_gflop_per_s = 0;   ///< a large matrix product of this backend
  double bf16_gflop_per_s = 0;  ///< the same with bf16 weights
  double s8_gflop_per_s = 0;    ///< the same with q8_0 weights, 8-bit products where the backend has them
};
MachineLimits measure_limits(Backend& backend, int threads);

/// Median; values must not be empty.
double median(std::vector<double> values);

}  // namespace mamba2::app
