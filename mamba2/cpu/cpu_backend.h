#pragma once

#include <cstdint>
#include <memory>

#include "mamba2/cpu/isa.h"
#include "mamba2/ops/backend.h"

namespace mamba2 {

namespace cpu {

/// How SsdScan runs over a prompt: in chunks by matrix products, or token by token, which is slower and gives equal
/// bits however the prompt is split.
enum class ScanForm : std::uint8_t { chunked, sequential };

/// When weights in bf16 are multiplied as bf16, that is x rounded to bf16 too and the products summed in f32, where the
/// instruction set can: for matrices so large and so many rows that arithmetic takes the time; or always, which gives a
/// row equal bits in a batch of any size.  Weights in f16 are multiplied as sums of two bf16 in the first case, by amx
/// alone, and in f32 in the second.
enum class Bf16Products : std::uint8_t { where_faster, always };

}  // namespace cpu

/// The fast implementation on processors: activations in f32, the state in f32 or bf16, weights f32, bf16 or f16 as
/// stored (the file's memory is used in place where its dtype is the one asked for; f64 becomes f32).  Kernels for the
/// strongest instruction set of this machine, or for MAMBA2_ISA.
///
/// Results depend on the instruction set but not on the number of threads.  A row of Linear does not depend on the
/// other rows, except that it depends on how many there are with weights in bf16 on avx512_bf16 and amx, and with
/// weights in f16 on amx (Bf16Products); nor does a sequence on its neighbours in the batch.  How a prompt is split
/// changes SsdScan's results by rounding, since its chunks begin at other tokens.  A state in bf16 is rounded after
/// each token where the scan is sequential, else at the end of a call and every 1024 tokens of a sequence.
///
/// threads: 0 for one each processor that the process may use.  Throws Error for a count out of range or a wrong
/// MAMBA2_ISA.
std::unique_ptr<Backend> make_cpu_backend(int threads = 0, cpu::ScanForm form = cpu::ScanForm::chunked,
                                          cpu::Bf16Products products = cpu::Bf16Products::where_faster);

/// With the kernels of one instruction set, which must be among cpu::available_isas().
std::unique_ptr<Backend> make_cpu_backend(int threads, cpu::Isa isa, cpu::ScanForm form = cpu::ScanForm::chunked,
                                          cpu::Bf16Products products = cpu::Bf16Products::where_faster);

}  // namespace mamba2
