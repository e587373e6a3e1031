#pragma once

#include <memory>

#include "mamba2/ops/backend.h"

namespace mamba2 {

/// The naive implementation: one thread, no SIMD of its own, the recurrence token by token, every sum from first to
/// last. It runs wherever there is a C++ compiler, reads weights of any floating or quantised dtype where they lie, and
/// is the oracle that the other backends are tested against.
/// precision: f32 or f64, what activations and states are held in between two steps of a sum or a recurrence.
/// arithmetic: what sums and functions are evaluated in before they are rounded to that, f64, or f32 for f32. With f64
/// in both it is the truth, with f32 in both the plain evaluation that a kernel in f32 is measured by.
/// Throws Error for another pair.
std::unique_ptr<Backend> make_reference_backend(DType precision = DType::f32, DType arithmetic = DType::f64);

}  // namespace mamba2
