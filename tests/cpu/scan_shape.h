#pragma once

#include "tests/cpu/properties.h"
#include "tests/cpu/scan_operands.h"

namespace mamba2::test {

inline ScanShape any_scan_shape() {
  return {.groups = from_to(1, 3),
          .heads_a_group = from_to(1, 3),
          .head_dim = any_of({1, 3, 4, 8, 17, 33, 64}),
          .state_size = any_of({1, 2, 5, 8, 16, 31, 66, 128}),
          .D_for_each_element = *rc::gen::arbitrary<bool>()};
}

}  // namespace mamba2::test
