#pragma once

#include <cstdint>
#include <vector>

#include "mamba2/cpu/cpu_backend.h"
#include "mamba2/cpu/isa.h"
#include "mamba2/cpu/kernels.h"
#include "mamba2/cpu/linear_plan.h"
#include "mamba2/cpu/thread_pool.h"
#include "mamba2/ops/backend.h"
#include "mamba2/tensor/tensor.h"

/// The ops over threads and kernels.  Operands are checked already.
namespace mamba2::cpu {

/// What every op works with.
struct Context {
  Context(int threads, Isa isa, ScanForm scan_form, Bf16Products bf16_products);

  /// Makes scratch(worker) at least `floats` long for every worker; contents are free.
  void reserve_scratch(std::int64_t floats);
  float* scratch(int worker) const;
  /// At least `bytes` that all workers share; contents are free.
  void* shared_scratch(std::size_t bytes);

  const Isa isa;
  const ScanForm scan_form;
  const Kernels kernels;
  ThreadPool pool;
  const LinearMachine linear_machine;
  const std::int64_t weights_ahead = quantized_weights_ahead();

 private:
  std::vector<HostBuffer> scratch_;  // one a worker
  HostBuffer shared_scratch_;
};

/// A weight matrix (rows, columns): the host's memory as it is, or a converted copy.
class CpuWeight : public PreparedWeight {
 public:
  CpuWeight(const Tensor& host, DType held_as, WeightType type, Context& context);
  std::size_t bytes() const override { return copy_.size(); }

  const WeightType type;
  Tensor matrix;

 private:
  HostBuffer copy_;
};

/// Rows below which a second thread costs more than it brings.
constexpr std::int64_t rows_a_piece(std::int64_t width) {
  return 8 * 1024 / (width + 1) + 1;
}

void embedding(Context& context, const Embedding& op);
void linear(Context& context, const Linear& op);
void rms_norm(Context& context, const RmsNorm& op);
void gated_rms_norm(Context& context, const GatedRmsNorm& op);
void causal_conv(Context& context, const CausalConv& op);
void time_step(Context& context, const TimeStep& op);
void ssd_scan(Context& context, const SsdScan& op);
void gated_activation(Context& context, const GatedActivation& op);
void activate(Context& context, const Activate& op);
/// Whether fused_mixer takes the batch: all its sequences are short.
bool is_fusable(const Mixer& op);
void fused_mixer(Context& context, const Mixer& op);
void rope(Context& context, const Rope& op);
void attention(Context& context, const Attention& op);
void gather_rows(Context& context, const GatherRows& op);
void cross_entropy(Context& context, const CrossEntropy& op);

}  // namespace mamba2::cpu
