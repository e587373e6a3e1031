#pragma once

#include <cstdint>

#include "mamba2/app/machine.h"
#include "mamba2/model/modeling_mamba2.h"

namespace mamba2::app {

/// What a model's forward pass must move and compute at least.
struct ModelCost {
  std::int64_t weight_bytes = 0;         ///< every weight once, embeddings only where they are the head too
  std::int64_t embedding_row_bytes = 0;  ///< what a token reads of embeddings that are not the head
  std::int64_t state_bytes = 0;          ///< of a sequence: conv_state and ssm_state
  std::int64_t key_bytes = 0;            ///< keys and values of one token, in all attention layers
  std::int64_t matrix_elements = 0;      ///< of the layers: what each token is multiplied with
  std::int64_t head_elements = 0;        ///< what each position that wants logits is multiplied with
  DType matrix_dtype = DType::f32;       ///< of most of them
};
ModelCost cost_of(const Mamba2ForCausalLM& model);

enum class BenchPhase : std::uint8_t {
  prefill,
  decode,
  engine  ///< as many tokens as decode, for requests to an Engine, from a short prompt on
};

/// One timed thing: a prompt of `tokens` tokens, or so many steps of one token, for `batch` sequences together.
struct BenchRun {
  BenchPhase phase = BenchPhase::prefill;
  std::int64_t tokens = 0;
  std::int64_t batch = 1;
  std::int64_t piece = 0;  ///< tokens that go through the layers at a time; 0: the model's choice

  bool decodes() const { return phase != BenchPhase::prefill; }
};

/// Of a run: per step where it decodes, of all where it is a prompt.
struct RunCost {
  std::int64_t weight_bytes = 0;
  std::int64_t state_bytes = 0;  ///< of all sequences, read and written; cached keys and values read
  double total_bytes = 0;        ///< of the whole run
  double operations = 0;         ///< of the whole run's matrix products, two a product and sum
};
/// before: tokens that the sequences hold already.
RunCost cost_of(const BenchRun& run, const ModelCost& model, std::int64_t before);

/// The shortest time in which this machine could move these bytes and do these products, the slower of the two.
double limit_seconds(const RunCost& cost, DType matrix_dtype, const MachineLimits& limits);

}  // namespace mamba2::app
