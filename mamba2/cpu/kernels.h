#pragma once

#include <cstdint>

#include "mamba2/ops/ops.h"

/// The kernels: what runs on one thread, built once for each instruction set.  Operands are checked; strides count
/// elements and belong to the outer dimension, the inner one is contiguous.  No kernel allocates.
namespace mamba2::cpu {

/// How the elements of a weight matrix are held; the values index Kernels::linear and Kernels::widen.
enum class WeightType : std::uint8_t { f32, bf16, f16 };
constexpr int weight_types = 3;

/// sums of products over at most this many columns are kept in registers; longer rows are cut into equal blocks whose
/// sums are added in order.  1024: three rows of x and four of the weights fit a 32 KiB L1 cache.
constexpr std::int64_t most_columns_in_a_block = 1024;

/// out[m, n] = add[m, n] + bias[n] + sum_k x[m, k] w[n, k].  An element's bits depend on its row of x, its row of w, k
/// and the instruction set alone, not on m or n.
struct LinearTask {
  const float* x;
  std::int64_t x_stride, m;
  const void* w;
  std::int64_t w_stride, n, k;
  const float* bias;  // or null
  const float* add;   // or null; may be out
  std::int64_t add_stride;
  float* out;
  std::int64_t out_stride;
  float* scratch;  // linear_scratch(m, n) floats
};
constexpr std::int64_t linear_scratch(std::int64_t m, std::int64_t n) {
  return m * ((n + 3) / 4 * 4) + 4 * most_columns_in_a_block;
}

/// Products in bf16: weights as they are held, x rounded to nearest.  Rows are rounded in groups of this many, each
/// into rounded_elements(k) elements whose order is the instruction set's own.
constexpr std::int64_t rows_in_a_group = 16;
/// One more line than the columns take, so that rows a power of two long do not fall on one another in the caches.
constexpr std::int64_t rounded_columns(std::int64_t k) {
  return (k + 31) / 32 * 32 + 32;
}
constexpr std::int64_t rounded_elements(std::int64_t k) {
  return rows_in_a_group * rounded_columns(k);
}
struct RoundTask {
  const float* x;
  std::int64_t x_stride, rows, k;  // rows <= rows_in_a_group
  std::uint16_t* to;
};
/// As LinearTask, but x holds whole groups of rounded rows.  An element's bits depend on its rows, k and the
/// instruction set alone here too; they are others than LinearTask's.
struct RoundedLinearTask {
  const std::uint16_t* x;
  std::int64_t m;
  const std::uint16_t* w;
  std::int64_t w_stride, n, k;
  const float* bias;
  const float* add;
  std::int64_t add_stride;
  float* out;
  std::int64_t out_stride;
  float* scratch;  // rounded_scratch(m, n, k) floats
};
/// For weights in f16: x in two parts, 2 * rounded_elements(k) a group.  Nearly as exact as LinearTask (2^-17 of each
/// product of a weight and an x), except that infinity may become NaN.
constexpr std::int64_t split_scratch(std::int64_t k) {
  return 32 * rounded_columns(k) + 2 * 32 * 32;
}
/// The sums of all rows, or a panel of 32 rows of the weights and a tile of sums.
constexpr std::int64_t rounded_scratch(std::int64_t m, std::int64_t n, std::int64_t k) {
  const std::int64_t sums = m * ((n + 3) / 4 * 4), panel = 32 * rounded_columns(k) / 2 + 2 * 32 * 32;
  return sums > panel ? sums : panel;
}

struct NormTask {
  const float* x;
  std::int64_t x_stride, rows, width;
  const float* weight;  // or null
  float eps;
  float* out;
  std::int64_t out_stride;
};

struct GatedNormTask {
  const float *y, *z;
  std::int64_t y_stride, z_stride, rows, width;
  const float* weight;  // or null: the gate alone
  std::int64_t group_size;
  float eps;
  GateOrder order;
  float* out;
  std::int64_t out_stride;
};

/// value null: out = act(gate).
struct ActivationTask {
  const float *value, *gate;
  std::int64_t value_stride, gate_stride, rows, width;
  Activation act;
  float* out;
  std::int64_t out_stride;
};

/// Channels [0, channels) of one sequence.
struct ConvTask {
  const float* x;
  std::int64_t x_stride, tokens, channels, conv_kernel;
  const float* weight;  // (channels, conv_kernel)
  std::int64_t weight_stride;
  const float* bias;  // or null
  Activation act;
  const float* before;  // (channels, conv_kernel - 1): the inputs before the first token, oldest first
  float* state;         // laid out as `before`, may be it: becomes the last inputs; null: they are not kept
  std::int64_t state_stride;
  float* out;  // null: only the state is wanted
  std::int64_t out_stride;
  float* scratch;  // conv_scratch(channels, conv_kernel) floats
};
constexpr std::int64_t conv_scratch(std::int64_t channels, std::int64_t conv_kernel) {
  return 2 * conv_kernel * channels;
}

/// out = clamp(softplus(dt_raw + bias), low, high).
struct TimeStepTask {
  const float* dt_raw;
  std::int64_t dt_raw_stride, rows, width;
  const float* bias;
  float low, high;
  float* out;
  std::int64_t out_stride;
};

/// How ssm_state is held, and rounded when it is written.
enum class StateForm : std::uint8_t { f32, bf16, bf16_stochastic };

/// One head of one sequence.
struct ScanTask {
  const float* x;
  std::int64_t x_stride;
  const float* dt;
  std::int64_t dt_stride;
  float a;  // -exp(A_log)
  const float *B, *C;
  std::int64_t B_stride, C_stride;
  const float* D;
  std::int64_t D_step;  // 0: one for the head, 1: one for each element
  void* state;          // (head_dim, state_size)
  std::int64_t state_stride;
  StateForm state_form;
  const std::int32_t* positions;  // of the tokens; for stochastic rounding alone, as the next two
  std::uint32_t head, layer;
  std::int64_t tokens, head_dim, state_size;
  float* out;
  std::int64_t out_stride;
  // The chunked form only:
  std::int64_t chunk;
  const float* scores;  // (tokens, chunk), chunk a multiple of 16: scores[t, j] = C_t . B_(first of t's chunk + j), for
                        // j up to t's own place
  const float* packed;  // (tokens, 2 state_size): what ScoresTask::packed became for each chunk
  float* scratch;       // scan_scratch(...) floats
};
/// The padded width of rows of head_dim or chunk elements.
constexpr std::int64_t padded(std::int64_t width) {
  return (width + 63) / 64 * 64;
}
constexpr std::int64_t scan_scratch(std::int64_t chunk, std::int64_t head_dim, std::int64_t state_size) {
  // the state turned, dt x, the decayed scores, three vectors of decays, D
  return padded(head_dim) * (state_size + chunk + 1) + (chunk + 3) * padded(chunk);
}

/// What the heads of one group share of one chunk: C_t . B_j into scores[t, j], t < tokens, j <= t (more are written),
/// and B and C in the order that ssd_chunks reads them.
struct ScoresTask {
  const float *B, *C;
  std::int64_t B_stride, C_stride, tokens, state_size;
  float* scores;
  std::int64_t scores_stride;
  float* packed;  // 2 tokens state_size floats
};

/// One query over `count` keys.
struct AttentionTask {
  const float* q;
  const float *k, *v;
  std::int64_t k_stride, v_stride, count, head_dim;
  float scale;
  float* out;
};

struct Kernels {
  void (*linear[weight_types])(const LinearTask&);
  // Null where the instruction set has no products of bf16.
  void (*round_rows)(const RoundTask&);
  void (*linear_rounded)(const RoundedLinearTask&);
  // Null but with AMX.
  void (*split_rows)(const RoundTask&);
  void (*linear_split)(const RoundedLinearTask&);
  void (*widen[weight_types])(const void* from, float* to, std::int64_t count);
  void (*rms_norm)(const NormTask&);
  void (*gated_rms_norm)(const GatedNormTask&);
  void (*activation)(const ActivationTask&);
  void (*conv)(const ConvTask&);
  void (*time_step)(const TimeStepTask&);
  void (*ssd_step)(const ScanTask&);
  void (*ssd_chunks)(const ScanTask&);
  void (*ssd_scores)(const ScoresTask&);
  void (*attention)(const AttentionTask&);
  float (*log_sum_exp)(const float* x, std::int64_t count);
};

namespace portable {
Kernels kernels();
}
namespace avx2 {
Kernels kernels();
}
namespace avx512 {
Kernels kernels();
}
namespace avx512_vnni {
Kernels kernels();
}
namespace avx512_bf16 {
Kernels kernels();
}
namespace amx {
Kernels kernels();
}

}  // namespace mamba2::cpu
