#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>

#include "mamba2/cuda/batch.h"

namespace mamba2::cuda {

/// out = add + x W^T + bias with f32 sums; x and W of one dtype, add and bias f32, out f32 or, where it is only
/// x W^T, bf16.
struct Product {
  std::int64_t rows = 0, inputs = 0, outputs = 0;
  DType dtype = DType::f32;  // of x and W: f32 (never rounded to less) | bf16 | f16
  ConstRows x, weight;
  const float* bias = nullptr;  // (outputs); null: none
  ConstRows add;                // data null: none; may be out
  Rows out;
  DType out_dtype = DType::f32;
};

/// NVIDIA's cuBLASLt, found when the program runs: a build with CUDA starts without it.
class BlasLt {
 public:
  /// Null where the library is not there, and then why says what was tried.
  static std::unique_ptr<BlasLt> open(std::string& why);
  ~BlasLt();

  /// False where its rows are aligned in a way that the library is slow at or refuses.
  static bool takes(const Product& product);
  /// Whether the library knows a way for this shape.
  bool knows(const Product& product);
  /// Enqueues the product; false where it does not.
  bool multiply(const Product& product, cudaStream_t stream);

 private:
  struct State;
  explicit BlasLt(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace mamba2::cuda
