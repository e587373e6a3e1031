#pragma once

#include <cstdint>

#include "mamba2/cpu/cpu_backend.h"
#include "mamba2/cpu/isa.h"
#include "mamba2/cpu/kernels.h"

namespace mamba2::cpu {

/// Widened weights: products and sums in f32.  x rounded: products of bf16, summed in f32.  Split: weights in f16 and x
/// as sums of two bf16 each, three products of bf16 for one, nearly as exact as f32.
enum class LinearForm : std::uint8_t { widened, rounded, split };

/// How a matrix product is done: in which arithmetic, and cut into blocks of how many rows of x and columns (rows of
/// the weight).  A block belongs to one thread.
struct LinearPlan {
  LinearForm form;
  std::int64_t rows_in_block, columns_in_block;
  bool operator==(const LinearPlan&) const = default;
};

/// What the choice of a plan depends on, beside the shape.
struct LinearMachine {
  Isa isa;
  int threads;
  std::int64_t l2_bytes;
  Bf16Products bf16_products;
};

/// Of x (rows, k) times weights (n, k).
LinearPlan linear_plan(std::int64_t rows, std::int64_t n, std::int64_t k, WeightType type,
                       const LinearMachine& machine);

/// Of one processor, as the system tells it; 512 KiB where it does not.
std::int64_t l2_cache_bytes();

/// QuantizedLinearTask::ahead for the processor at hand.
std::int64_t quantized_weights_ahead();

}  // namespace mamba2::cpu
