#include "mamba2/app/model_cost.h"

#include <algorithm>
#include <map>

#include "mamba2/tensor/quantized.h"

namespace mamba2::app {

ModelCost cost_of(const Mamba2ForCausalLM& model) {
  const Mamba2Config& config = model.config();
  ModelCost cost;
  std::map<DType, std::int64_t> elements_held_as;
  ModelWeights& weights = const_cast<ModelWeights&>(model.model().weights());  // the table can also fill them
  for (const TensorSlot& slot : tensor_table(config, weights)) {
    const bool embeddings = slot.matrix == &weights.embeddings;
    if (embeddings) continue;
    if (slot.vector != nullptr) {
      cost.weight_bytes += static_cast<std::int64_t>(slot.vector->view.bytes());
      continue;
    }
    const PreparedWeight& matrix = **slot.matrix;
    cost.weight_bytes += static_cast<std::int64_t>(bytes_for(matrix.dtype, matrix.shape.elements()));
    cost.matrix_elements += matrix.shape.elements();
    elements_held_as[matrix.dtype] += matrix.shape.elements();
  }
  const PreparedWeight& head = *weights.head();
  cost.weight_bytes += static_cast<std::int64_t>(bytes_for(head.dtype, head.shape.elements()));
  cost.head_elements = head.shape.elements();
  if (&head != weights.embeddings.get())
    cost.embedding_row_bytes = static_cast<std::int64_t>(bytes_for(weights.embeddings->dtype, config.hidden_size));
  const auto most = std::ranges::max_element(elements_held_as, {}, [](const auto& held) { return held.second; });
  if (most != elements_held_as.end()) cost.matrix_dtype = most->first;

  const Mamba2Cache cache = model.make_cache(1);
  for (std::int64_t i = 0; i < cache.layers(); ++i)
    for (const Tensor& state : {cache.layer(i).conv_state.view, cache.layer(i).ssm_state.view})
      if (!state.empty()) cost.state_bytes += static_cast<std::int64_t>(state.bytes());
  cost.key_bytes = static_cast<std::int64_t>(
      bytes_for(model.model().backend().activation_dtype(),
                2 * std::ssize(config.attention_layers_idx) * config.num_key_value_heads * config.attention_head_dim));
  return cost;
}

RunCost cost_of(const BenchRun& run, const ModelCost& model, std::int64_t before) {
  const std::int64_t passes = run.decodes() ? run.tokens : 1;
  const std::int64_t tokens_a_pass = run.decodes() ? run.batch : run.batch * run.tokens;
  const std::int64_t heads_a_pass = run.batch;
  const std::int64_t mean_length = before + run.tokens / 2;
  RunCost cost;
  cost.weight_bytes = model.weight_bytes + tokens_a_pass * model.embedding_row_bytes;
  cost.state_bytes = run.batch * (2 * model.state_bytes + mean_length * model.key_bytes);
  cost.total_bytes = static_cast<double>(passes) * static_cast<double>(cost.weight_bytes + cost.state_bytes);
  cost.operations = 2.0 * static_cast<double>(passes) *
                    (static_cast<double>(tokens_a_pass) * static_cast<double>(model.matrix_elements) +
                     static_cast<double>(heads_a_pass) * static_cast<double>(model.head_elements));
  return cost;
}

double limit_seconds(const RunCost& cost, DType matrix_dtype, const MachineLimits& limits) {
  double rate = limits.f32_gflop_per_s;  // any weight can be widened to f32
  if (matrix_dtype != DType::f32) rate = std::max(rate, limits.bf16_gflop_per_s);
  if (is_quantized(matrix_dtype)) rate = std::max(rate, limits.s8_gflop_per_s);
  return std::max(cost.total_bytes / limits.read_gb_per_s, cost.operations / rate) * 1e-9;
}

}  // namespace mamba2::app
