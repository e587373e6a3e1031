#pragma once

#include <algorithm>

#include "mamba2/reference/elements.h"

namespace mamba2::reference {

template <class T, class Real>
void cross_entropy(const CrossEntropy& op) {
  const std::int64_t classes = op.logits.size(1);
  for (std::int64_t t = 0; t < op.logits.size(0); ++t) {
    const std::int32_t label = integers(op.labels)[t];
    T& out = op.out.as<T>()[t];
    out = 0;
    if (label == -100) continue;
    const T* logits = row<T>(op.logits, t);
    const Real largest = *std::max_element(logits, logits + classes);
    Real sum = 0;
    for (std::int64_t i = 0; i < classes; ++i) sum += std::exp(logits[i] - largest);
    out = static_cast<T>(std::log(sum) + largest - logits[label]);
  }
}

}  // namespace mamba2::reference
