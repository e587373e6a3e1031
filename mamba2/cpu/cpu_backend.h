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

}  // namespace cpu

/// The fast implementation on processors: activations and state in f32, weights f32, bf16 or f16 as stored (the file's
/// memory is used in place where its dtype is the one asked for; f64 becomes f32).  Kernels for the strongest
/// instruction set of this machine, or for MAMBA2_ISA.
///
/// Results depend on the instruction set but not on the number of threads.  A row of Linear does not depend on the
/// other rows; a sequence does not depend on its neighbours in the batch.  How a prompt is split changes SsdScan's
/// results by rounding, since its chunks begin at other tokens.
///
/// threads: 0 for one each processor that the process may use.  Throws Error for a count out of range or a wrong
/// MAMBA2_ISA.
std::unique_ptr<Backend> make_cpu_backend(int threads = 0, cpu::ScanForm form = cpu::ScanForm::chunked);

/// With the kernels of one instruction set, which must be among cpu::available_isas().
std::unique_ptr<Backend> make_cpu_backend(int threads, cpu::Isa isa, cpu::ScanForm form = cpu::ScanForm::chunked);

}  // namespace mamba2
