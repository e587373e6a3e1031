#pragma once

#include <memory>

#include "mamba2/ops/backend.h"

namespace mamba2 {

/// The naive implementation: one thread, no SIMD of its own, the recurrence token by token, every sum from first to
/// last. It runs wherever there is a C++ compiler, reads weights of any floating or quantised dtype where they lie, and
/// is the oracle that the other backends are tested against: in f64 as the truth, in f32 as the plain evaluation.
/// precision: DType::f32 or DType::f64, what activations are held and computed in.
std::unique_ptr<Backend> make_reference_backend(DType precision = DType::f32);

}  // namespace mamba2
