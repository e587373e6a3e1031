#pragma once

#include <optional>

#include "mamba2/model/weights.h"

namespace mamba2 {

/// What a matrix is held as where `wanted` was asked for of the whole model; nothing asked: as stored.
///
/// Plain dtypes hold every matrix.  Of the quantised ones, which are asked for by the name of what most matrices get:
/// embeddings and heads, whose errors reach every logit, are held as q6_k where q4_0 or q4_k is asked for; rows that
/// are no whole number of the dtype's blocks make q4_k and q6_k q8_0, and rows that are no multiple of 32 f16.
DType held_dtype(const TensorSlot& slot, DType stored, std::optional<DType> wanted);

}  // namespace mamba2
