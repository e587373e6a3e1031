#pragma once

#include <string>

namespace mamba2::cuda {

/// One line: what, milliseconds, GB/s of the bytes that must move and their share of the copy bandwidth.
void report(const std::string& what, double milliseconds, double bytes, const std::string& note = "");

/// What a kernel does to a sequence of some length, and how long that took.
struct LengthRow {
  std::string kernel;
  int tokens = 0;
  double milliseconds = 0;
  double bytes = 0;  ///< that must move
  double flop = 0;   ///< of matrix products
};
/// The same, and with --json an object that tools/roofline_svg.py reads.
void report(const LengthRow& row);

/// Bytes per second of a large copy on this device, read and written ones both counted.
double copy_bandwidth();

/// For a sequence of 80 heads of 64, state 128, one group; and causal attention as wide, 40 heads of 64.
LengthRow scan_of_length(int tokens);
LengthRow attention_of_length(int tokens);

void bench_ssd_scan();
void bench_states();
void bench_decode();
void bench_decode_chain();
void bench_decode_layers();
void bench_lengths();
void bench_packed();
void bench_prompt_products();
void bench_rows();

}  // namespace mamba2::cuda
