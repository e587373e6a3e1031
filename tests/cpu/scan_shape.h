#pragma once

#include "tests/cpu/properties.h"

namespace mamba2::test {

struct ScanShape {
  std::int64_t groups, heads_a_group, head_dim, state_size;
  bool D_for_each_element;

  std::int64_t heads() const { return groups * heads_a_group; }
};

inline ScanShape any_scan_shape() {
  return {.groups = from_to(1, 3),
          .heads_a_group = from_to(1, 3),
          .head_dim = any_of({1, 3, 4, 8, 17, 33, 64}),
          .state_size = any_of({1, 2, 5, 8, 16, 31, 66, 128}),
          .D_for_each_element = *rc::gen::arbitrary<bool>()};
}

}  // namespace mamba2::test
