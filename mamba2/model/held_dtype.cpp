#include "mamba2/model/held_dtype.h"

#include "mamba2/base/log.h"

namespace mamba2 {
namespace {

bool reaches_logits(const TensorSlot& slot) {
  return slot.role != WeightRole::linear || slot.name == "lm_head.weight" || slot.name.starts_with("classif") ||
         slot.name.starts_with("score.");
}

bool fits(DType dtype, const Shape& shape) {
  return shape[-1] % block_elements(dtype) == 0;
}

}  // namespace

DType held_dtype(const TensorSlot& slot, DType stored, std::optional<DType> wanted) {
  if (!wanted) return stored;
  if (!is_quantized(*wanted)) return *wanted;
  DType dtype = *wanted;
  if ((dtype == DType::q4_0 || dtype == DType::q4_k) && reaches_logits(slot)) dtype = DType::q6_k;
  for (const DType next : {DType::q8_0, DType::f16}) {
    if (fits(dtype, slot.shape)) break;
    log_debug("tensor '{}' {} has rows that are no whole blocks of {}, held as {}", slot.name, to_string(slot.shape),
              name(dtype), name(next));
    dtype = next;
  }
  return dtype;
}

}  // namespace mamba2
