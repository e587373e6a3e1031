#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "mamba2/cuda/context.h"
#include "mamba2/cuda/decode_layers.h"

namespace mamba2::cuda {

/// All that an op's launches depend on, as words: the op's kind, its tensors' addresses and layouts, its numbers.  What
/// lies in device memory is not part of it.
class Fingerprint {
 public:
  explicit Fingerprint(std::vector<std::uint64_t>& words) : words_(words) {}

  void add(const mamba2::Embedding& op) { all(1, op.ids, op.weight, op.out); }
  void add(const mamba2::Linear& op) { all(2, op.x, op.weight, op.bias, op.add, op.out); }
  void add(const mamba2::RmsNorm& op) { all(3, op.x, op.weight, op.eps, op.out); }
  void add(const mamba2::GatedRmsNorm& op) { all(4, op.y, op.z, op.weight, op.group_size, op.eps, op.order, op.out); }
  void add(const mamba2::CausalConv& op) { all(5, op.x, op.weight, op.bias, op.act, op.batch, op.conv_state, op.out); }
  void add(const mamba2::TimeStep& op) { all(6, op.dt_raw, op.dt_bias, op.limit, op.out); }
  void add(const mamba2::SsdScan& op) {
    all(7, op.x, op.dt, op.A_log, op.B, op.C, op.D, op.batch, op.ssm_state, op.rounding, op.layer, op.out);
  }
  void add(const mamba2::GatedActivation& op) { all(8, op.value, op.gate, op.act, op.out); }
  void add(const mamba2::Activate& op) { all(9, op.x, op.act, op.out); }
  void add(const mamba2::Mixer& op) {
    all(10, op.projected, op.conv_weight, op.conv_bias, op.act, op.dt_bias, op.A_log, op.D, op.limit, op.n_groups,
        op.norm_weight, op.norm_group_size, op.norm_eps, op.order, op.batch, op.conv_state, op.ssm_state, op.rounding,
        op.layer, op.pending, op.xBC, op.dt, op.y, op.out);
  }
  void add(const mamba2::Rope& op) {
    const RopeParameters& p = op.parameters;
    all(11, op.x, op.batch, p.rotary_dim, p.theta, p.scaling, p.factor, p.max_position_embeddings);
  }
  void add(const mamba2::Attention& op) {
    all(12, op.q, op.k, op.v, op.scale, op.batch, op.k_cache, op.v_cache, op.out);
  }
  void add(const mamba2::GatherRows& op) { all(13, op.x, op.rows, op.out); }
  void add(const mamba2::CrossEntropy& op) { all(14, op.logits, op.labels, op.out); }
  void add(const mamba2::SettleState& op) {
    all(16, op.pending, op.ssm_state, op.slots, op.ends, op.rounding, op.layer);
  }
  void add(const mamba2::ChooseToken& op) { all(15, op.logits, op.rules, op.steps, op.history, op.positions, op.out); }
  void add(const mamba2::AddOverRanks& op) { all(16, op.x, op.add, op.out); }
  void add(const mamba2::NormOverRanks& op) {
    all(17, op.x, op.weight, op.group_size, op.first_channel, op.eps, op.square_sums, op.out);
  }
  void add(const mamba2::Broadcast& op) { all(18, op.x); }
  void add(const MixerLayer& op) {
    all(20);
    add(op.norm);
    add(op.in_proj);
    add(op.mixer);
    add(op.out_proj);
  }
  void add(const DecodeLayers& op) {
    const DecodeShape& s = op.shape;
    all(19, s.hidden, s.heads, s.state_size, s.layers, s.rows, s.state_element);
    all(double{op.norm_eps}, double{op.gated_norm_eps}, double{op.dt_min}, double{op.dt_max}, address(op.positions),
        std::int64_t{op.first_layer}, address(op.slots), address(op.hidden.data), op.hidden.stride);
    for (int i = 0; i < s.layers; ++i) {
      const DecodeLayer& l = op.layer[i];
      all(l.in_proj, l.out_proj, address(l.norm_weight), address(l.gated_norm_weight), address(l.conv_weight),
          address(l.conv_bias), address(l.dt_bias), address(l.A_log), address(l.D), address(l.conv_state),
          address(l.ssm_state));
    }
  }

 private:
  static const void* address(const void* memory) { return memory; }
  template <class... Parts>
  void all(const Parts&... parts) {
    (part(parts), ...);
  }
  void part(std::int64_t number) { words_.push_back(static_cast<std::uint64_t>(number)); }
  void part(int number) { part(std::int64_t{number}); }
  void part(double number) { words_.push_back(std::bit_cast<std::uint64_t>(number)); }
  void part(const void* address) { words_.push_back(std::bit_cast<std::uint64_t>(address)); }
  void part(const PreparedWeight* weight) { part(matrix_of(*weight)); }
  void part(mamba2::Activation act) { part(static_cast<int>(act)); }
  void part(StateRounding rounding) { part(static_cast<int>(rounding)); }
  void part(GateOrder order) { part(static_cast<int>(order)); }
  void part(RopeScaling scaling) { part(static_cast<int>(scaling)); }
  void part(const TimeStepLimit& limit) { all(limit.min, limit.max); }
  void part(const Tensor& tensor) {
    part(static_cast<const void*>(tensor.data));
    part(static_cast<int>(tensor.dtype) * 16 + tensor.rank());
    for (int i = 0; i < tensor.rank(); ++i) all(tensor.size(i), tensor.stride(i));
  }
  void part(const PendingInputs& pending) { all(pending.input, pending.B, pending.log_decay, pending.since); }
  void part(const mamba2::Batch& batch) {
    all(batch.tokens, batch.sequences, batch.longest, batch.sequence_start, batch.slots, batch.positions);
  }

  std::vector<std::uint64_t>& words_;
};

}  // namespace mamba2::cuda
