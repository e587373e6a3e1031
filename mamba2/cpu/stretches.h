#pragma once

#include <cstdint>
#include <vector>

#include "mamba2/cpu/kernels.h"
#include "mamba2/ops/ops.h"

/// How the ops over time see their operands.
namespace mamba2::cpu {

/// Tokens [first, first + count) of the batch, of the sequence that owns `slot`.
struct Stretch {
  std::int64_t first, count, slot;
};

/// One for each sequence that has tokens.
inline std::vector<Stretch> stretches(const Batch& batch) {
  const auto *start = batch.sequence_start.as<std::int32_t>(), *slots = batch.slots.as<std::int32_t>();
  std::vector<Stretch> found;
  for (std::int64_t s = 0; s < batch.sequences; ++s)
    if (start[s + 1] > start[s]) found.push_back({start[s], start[s + 1] - start[s], slots[s]});
  return found;
}

inline float* row(const Tensor& tensor, std::int64_t i) {
  return tensor.as<float>() + i * tensor.stride(0);
}
inline float* row(const Tensor& tensor, std::int64_t i, std::int64_t j) {
  return row(tensor, i) + j * tensor.stride(1);
}

// Sequences shorter than this go token by token: turning the state for the chunked form would cost more.
constexpr std::int64_t least_chunked_tokens = 12;

/// How a state is held.  Throws Error for a dtype that the cpu backend does not keep it in.
StateForm state_form(const Tensor& ssm_state, StateRounding rounding);

/// What a scan knows of its heads beside their inputs.
struct HeadOperands {
  const Tensor &A_log, &D, &ssm_state;
  StateForm form;
  std::int64_t layer;
  const Batch& batch;
};

/// Fills in what a task needs of these for one head over a stretch.
void set_head(ScanTask& task, const HeadOperands& operands, const Stretch& s, std::int64_t head);

/// Leaves a task of these rows of its head's state alone.
void take_rows(ScanTask& task, std::int64_t first, std::int64_t count);

/// Rows of a head's state that one thread takes at a time: all, or half or a quarter of them but no fewer than `least`,
/// where whole heads would leave threads without work at the end.  A row's bits are the same in either.  Where the
/// state is rounded stochastically the draws go by whole heads.
std::int64_t rows_of_a_head(std::int64_t head_dim, std::int64_t least, std::int64_t heads, StateForm form,
                            std::int64_t threads);

}  // namespace mamba2::cpu
