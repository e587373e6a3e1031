#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "mamba2/ops/backend.h"

namespace mamba2 {

namespace cuda {

/// What large products and long scans are computed in where the weights have 16 bits or less.
enum class Precision : std::uint8_t {
  fast,  ///< inputs rounded to 16 bits, f32 sums
  exact  ///< f32 throughout
};

/// Bytes of a layer's states from which inputs are left pending beside them: below it other things than their traffic
/// take the time (an H200: 25 MB a layer 5 % slower, 50 MB 12 % faster, 84 MB 13 %).
constexpr std::int64_t least_pending_bytes = std::int64_t{48} << 20;

/// The GPU as `doctor` shows it.
struct Summary {
  bool built = false;        ///< this build has the CUDA backend
  bool usable = false;       ///< and here is a GPU that it runs on
  std::string gpu;           ///< name, compute capability, memory; empty where there is none
  std::string problem;       ///< why not usable, one line
  int gpus = 0;              ///< how many there are
  std::string blas;          ///< whether cuBLASLt was found
  std::string nccl;          ///< whether NCCL, which joins several GPUs, was found
  std::string tuned_shapes;  ///< what has kernels of its own on this GPU
};

Summary describe();

}  // namespace cuda

/// The implementation on NVIDIA GPUs of compute capability 8.0 and later: activations in f32; state in f32 or bf16;
/// weights f32, bf16 or f16 as stored, and q8_0, q4_0, q4_k and q6_k in their bits.  Other quantised weights are held
/// as f16, as are rows longer than a block's shared memory holds.
///
/// Products of up to eight rows are computed in f32 from the weights as they are, so that a sequence's decode does not
/// depend on its neighbours.  With Precision::fast and no f32 matrix in the model, larger products and prompts round
/// their inputs to 16 bits, and those of more than a few dozen rows quantised weights too.
///
/// With Precision::fast, single tokens of more than eight sequences whose states take at least_pending_bytes in a layer
/// leave their inputs pending (PendingInputs) on compute capability 9.0.
///
/// Indices from the device are not checked on the host: an id, row, label or position outside its tensor gives NaN.
/// Throws Error where there is no usable GPU.
std::unique_ptr<Backend> make_cuda_backend(cuda::Precision precision = cuda::Precision::fast,
                                           std::int64_t least_pending_bytes = cuda::least_pending_bytes);

/// A backend on each of the first `ranks` GPUs, joined by NCCL.  Throws Error where there are fewer GPUs, where one of
/// them can't be used, or where NCCL is not there.
std::vector<std::unique_ptr<Backend>> make_cuda_backends(cuda::Precision precision, int ranks);

}  // namespace mamba2
