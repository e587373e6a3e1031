#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <string>

#include "tests/cpu/operands.h"

namespace mamba2::test {

struct ScanShape {
  std::int64_t groups, heads_a_group, head_dim, state_size;
  bool D_for_each_element;

  std::int64_t heads() const { return groups * heads_a_group; }
};

inline std::string text_of(const ScanShape& s) {
  return fmt::format("groups {} heads {} P{} N{}{}", s.groups, s.heads(), s.head_dim, s.state_size,
                     s.D_for_each_element ? " D of elements" : "");
}

/// dt between 0 and about 1, as softplus leaves it.
inline Tensor step_sizes(Operands& o, std::int64_t tokens, std::int64_t heads) {
  const Tensor raw = o.rows(tokens, heads), out = o.unwritten(tokens, heads);
  o.backend().run(TimeStep{.dt_raw = raw, .dt_bias = o.dense(Shape{heads}, 1.0, -2.0), .limit = {}, .out = out});
  return out;
}

/// A scan of any operands, from states that the slots hold already.
inline SsdScan scan_of(Operands& o, const ScanShape& s, const Batch& batch) {
  const std::int64_t heads = s.heads(), tokens = batch.tokens;
  SsdScan op{.x = o.heads(tokens, heads, s.head_dim),
             .dt = step_sizes(o, tokens, heads),
             .A_log = o.dense(Shape{heads}),
             .B = o.heads(tokens, s.groups, s.state_size),
             .C = o.heads(tokens, s.groups, s.state_size),
             .D = o.dense(s.D_for_each_element ? Shape{heads, s.head_dim} : Shape{heads}),
             .batch = batch,
             .ssm_state = o.dense(Shape{batch.sequences + 1, heads, s.head_dim, s.state_size}),
             .out = {}};
  op.out = o.unwritten_heads(tokens, heads, s.head_dim);
  return op;
}

/// What a scan writes.
inline void scan_results(Operands& o, const SsdScan& op) {
  o.backend().run(op);
  o.result(op.out);
  o.result(op.ssm_state);
}

}  // namespace mamba2::test
