#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "mamba2/ops/communicator.h"

namespace mamba2::cuda {

/// Communicators of ranks on these GPUs of this machine, over NVIDIA's NCCL, which is found when the program runs, as
/// cuBLASLt is.  They sum f32 and bf16 and work on the stream that they are given.  Throws Error where the library is
/// not there or can't join the GPUs.
std::vector<std::unique_ptr<Communicator>> make_nccl_communicators(std::span<const int> devices);

/// The library's name with its version, or what was looked for in vain.
std::string describe_nccl();

}  // namespace mamba2::cuda
