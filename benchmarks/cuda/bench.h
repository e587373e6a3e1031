#pragma once

#include <string>

namespace mamba2::cuda {

/// One line: what, milliseconds, GB/s of the bytes that must move and their share of the copy bandwidth.
void report(const std::string& what, double milliseconds, double bytes, const std::string& note = "");

/// Bytes per second of a large copy on this device, read and written ones both counted.
double copy_bandwidth();

void bench_ssd_scan();
void bench_decode();
void bench_decode_chain();
void bench_rows();

}  // namespace mamba2::cuda
