#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>

#include "tests/forwarding_backend.h"

namespace mamba2::test {

/// A backend of the host that computes in f32, with inputs left pending beside the states as a device does it: whatever
/// reads a state that is not up to date shows.
class PendingBackend : public ForwardingBackend {
 public:
  PendingBackend(std::unique_ptr<Backend> computes, std::int64_t room)
      : ForwardingBackend(std::move(computes)), room_(room) {}

  DType activation_dtype() const override { return DType::f32; }
  std::int64_t pending_room(const MixerStepShape& shape) const override { return shape.sequences > 0 ? room_ : 0; }

 protected:
  using ForwardingBackend::compute;
  void compute(const Mixer& op) override;
  void compute(const SettleState& op) override;

 private:
  std::int64_t room_;
};

/// Where the pending tokens of a head begin whose next token is the one at `position`.
inline std::int64_t first_pending(const PendingInputs& pending, std::int64_t slot, std::int64_t head,
                                  std::int64_t layer, std::int64_t position) {
  const std::int64_t room = pending.input.size(2);
  return std::max<std::int64_t>(pending.since.as<std::int32_t>()[slot], position - (position + head + layer) % room);
}

/// A head's state with the tokens from `first` to before `end`.
inline void add_pending(const PendingInputs& pending, std::int64_t slot, std::int64_t head, std::int64_t first,
                        std::int64_t end, const Tensor& state) {
  const std::int64_t room = pending.input.size(2), rows = state.size(0), columns = state.size(1);
  const std::int64_t group = head / (pending.input.size(1) / pending.B.size(1));
  for (std::int64_t u = first; u < end; ++u) {
    const float decay = std::exp(pending.log_decay[slot][head].as<float>()[u % room]);
    const auto* const input = pending.input[slot][head][u % room].as<float>();
    const auto* const B = pending.B[slot][group][u % room].as<float>();
    for (std::int64_t p = 0; p < rows; ++p)
      for (std::int64_t n = 0; n < columns; ++n) {
        float& element = state.as<float>()[p * columns + n];
        element = decay * element + input[p] * B[n];
      }
  }
}

inline void PendingBackend::compute(const SettleState& op) {
  for (std::int64_t i = 0; i < op.slots.size(0); ++i) {
    const std::int64_t slot = op.slots.as<std::int32_t>()[i], end = op.ends.as<std::int32_t>()[i];
    for (std::int64_t head = 0; head < op.ssm_state.size(1); ++head) {
      const std::int64_t first = first_pending(op.pending, slot, head, op.layer, end);
      add_pending(op.pending, slot, head, first, end, op.ssm_state[slot][head]);
    }
  }
}

/// The token through a copy of the states that is up to date; its inputs are what the mixer's parts left behind.
inline void PendingBackend::compute(const Mixer& op) {
  if (op.pending.since.empty()) return computes().run(op);
  const PendingInputs& pending = op.pending;
  const std::int64_t heads = op.ssm_state.size(1), head_dim = op.ssm_state.size(2), N = op.ssm_state.size(3);
  const DeviceTensor up_to_date = computes().allocate(DType::f32, op.ssm_state.shape);
  computes().copy(op.ssm_state, up_to_date);
  auto for_each_head = [&](auto&& visit) {
    for (std::int64_t i = 0; i < op.batch.sequences; ++i)
      for (std::int64_t head = 0; head < heads; ++head)
        visit(i, std::int64_t{op.batch.slots.as<std::int32_t>()[i]}, head,
              std::int64_t{op.batch.positions.as<std::int32_t>()[i]});
  };
  for_each_head([&](std::int64_t, std::int64_t slot, std::int64_t head, std::int64_t position) {
    const std::int64_t first = first_pending(pending, slot, head, op.layer, position);
    add_pending(pending, slot, head, first, position, up_to_date.view[slot][head]);
  });
  Mixer plain = op;
  plain.ssm_state = up_to_date;
  plain.pending = {};
  computes().run(plain);
  for_each_head([&](std::int64_t i, std::int64_t slot, std::int64_t head, std::int64_t position) {
    const std::int64_t place = position % room_, group = head / (heads / op.n_groups);
    const float dt = op.dt[i].as<float>()[head];
    const float* const x = op.xBC[i].as<float>();
    for (std::int64_t p = 0; p < head_dim; ++p)
      pending.input[slot][head][place].as<float>()[p] = dt * x[head * head_dim + p];
    std::copy_n(x + heads * head_dim + group * N, N, pending.B[slot][group][place].as<float>());
    pending.log_decay[slot][head].as<float>()[place] = -std::exp(op.A_log.as<float>()[head]) * dt;
    if ((position + 1 + head + op.layer) % room_ == 0)
      computes().copy(up_to_date.view[slot].slice(0, head, 1), op.ssm_state[slot].slice(0, head, 1));
  });
}

}  // namespace mamba2::test
