// A whole mixer for sequences of one token or a few, in one loop of the pool.
//
// A piece of work is some heads of one sequence, or parts of heads where these divide better among the threads: it
// convolves their channels of x, and B and C of their groups (which other pieces do as well: cheaper than waiting for
// one another), takes the step sizes and runs the recurrence, all in one core's cache; the state passes by once.
// Whoever finishes a sequence's last piece keeps the inputs of B's and C's convolution, which until then others may
// read, and runs the gated norm, which needs the whole row.  Every number comes from the same kernels in the same order
// as where the mixer runs part by part, so it has the same bits.
#include <algorithm>
#include <atomic>
#include <vector>

#include "mamba2/cpu/context.h"
#include "mamba2/cpu/stretches.h"

namespace mamba2::cpu {
namespace {

// Rows of the state in the smallest part of a head, and pieces of work a thread: each convolves B and C anew.
constexpr std::int64_t least_rows = 32, pieces_a_thread = 4;

/// A mixer's operands taken apart.
struct Parts {
  explicit Parts(const Mixer& whole)
      : op(whole),
        heads(op.ssm_state.size(1)),
        head_dim(op.ssm_state.size(2)),
        state_size(op.ssm_state.size(3)),
        inner(heads * head_dim),
        mlp(op.out.size(1) - inner),
        heads_a_group(heads / op.n_groups),
        form(state_form(op.ssm_state, op.rounding)),
        z(op.projected.slice(1, 2 * mlp, inner)),
        xBC(op.projected.slice(1, 2 * mlp + inner, inner + 2 * op.n_groups * state_size)),
        dt_raw(op.projected.slice(1, op.projected.size(1) - heads, heads)) {}

  /// The first channel of a group's B; C's comes n_groups * state_size later.
  std::int64_t B_channel(std::int64_t group) const { return inner + group * state_size; }
  std::int64_t C_channel(std::int64_t group) const { return B_channel(op.n_groups + group); }

  const Mixer& op;
  const std::int64_t heads, head_dim, state_size, inner, mlp, heads_a_group;
  const StateForm form;
  const Tensor z, xBC, dt_raw;
};

/// Channels [channel, channel + count) of a stretch, into `out` unless that is null.
ConvTask conv_task(const Parts& p, const Stretch& s, std::int64_t channel, std::int64_t count, float* out,
                   std::int64_t out_stride, float* scratch) {
  return {.x = row(p.xBC, s.first) + channel,
          .x_stride = p.xBC.stride(0),
          .tokens = s.count,
          .channels = count,
          .conv_kernel = p.op.conv_weight.size(1),
          .weight = row(p.op.conv_weight, channel),
          .weight_stride = p.op.conv_weight.stride(0),
          .bias = p.op.conv_bias.empty() ? nullptr : p.op.conv_bias.as<float>() + channel,
          .act = p.op.act,
          .before = row(p.op.conv_state, s.slot, channel),
          .state = row(p.op.conv_state, s.slot, channel),
          .state_stride = p.op.conv_state.stride(1),
          .out = out,
          .out_stride = out_stride,
          .scratch = scratch};
}

std::int64_t conv_scratch_of(const Parts& p) {
  return conv_scratch(std::max(p.inner, p.state_size), p.op.conv_weight.size(1));
}

/// Rows [begin, end) of the state, all of heads of one group: row i belongs to head i / head_dim.
void step_rows(Context& context, const Parts& p, const Stretch& s, std::int64_t begin, std::int64_t end, int worker) {
  const std::int64_t first_head = begin / p.head_dim, heads = (end - 1) / p.head_dim + 1 - first_head;
  const std::int64_t group = first_head / p.heads_a_group;
  float* const BC = context.scratch(worker);  // (tokens, 2 state_size)
  float* const dt = BC + 2 * least_chunked_tokens * p.state_size;
  float* const conv_space = dt + least_chunked_tokens * p.heads;
  context.kernels.conv(
      conv_task(p, s, begin, end - begin, row(p.op.xBC, s.first) + begin, p.op.xBC.stride(0), conv_space));
  for (const bool is_C : {false, true}) {
    ConvTask task = conv_task(p, s, is_C ? p.C_channel(group) : p.B_channel(group), p.state_size,
                              BC + (is_C ? p.state_size : 0), 2 * p.state_size, conv_space);
    task.state = nullptr;
    context.kernels.conv(task);
  }
  context.kernels.time_step({.dt_raw = row(p.dt_raw, s.first) + first_head,
                             .dt_raw_stride = p.dt_raw.stride(0),
                             .rows = s.count,
                             .width = heads,
                             .bias = p.op.dt_bias.as<float>() + first_head,
                             .low = static_cast<float>(p.op.limit.min),
                             .high = static_cast<float>(p.op.limit.max),
                             .out = dt,
                             .out_stride = heads});
  for (std::int64_t at = begin; at < end;) {
    const std::int64_t head = at / p.head_dim, first_row = at % p.head_dim;
    ScanTask task{};
    task.x = row(p.op.xBC, s.first) + head * p.head_dim;
    task.x_stride = p.op.xBC.stride(0);
    task.dt = dt + head - first_head;
    task.dt_stride = heads;
    task.B = BC;
    task.C = BC + p.state_size;
    task.B_stride = task.C_stride = 2 * p.state_size;
    task.tokens = s.count;
    task.state_size = p.state_size;
    task.out = row(p.op.y, s.first) + head * p.head_dim;
    task.out_stride = p.op.y.stride(0);
    set_head(task, {p.op.A_log, p.op.D, p.op.ssm_state, p.form, p.op.layer, p.op.batch}, s, head);
    take_rows(task, first_row, std::min(p.head_dim - first_row, end - at));
    context.kernels.ssd_step(task);
    at += task.head_dim;
  }
}

/// What is left once all heads of a sequence are done.
void finish_sequence(Context& context, const Parts& p, const Stretch& s) {
  context.kernels.conv(conv_task(p, s, p.inner, 2 * p.op.n_groups * p.state_size, nullptr, 0, nullptr));
  const Tensor out = p.op.out.slice(1, p.mlp, p.inner);
  context.kernels.gated_rms_norm({.y = row(p.op.y, s.first),
                                  .z = row(p.z, s.first),
                                  .y_stride = p.op.y.stride(0),
                                  .z_stride = p.z.stride(0),
                                  .rows = s.count,
                                  .width = p.inner,
                                  .weight = p.op.norm_weight.empty() ? nullptr : p.op.norm_weight.as<float>(),
                                  .group_size = p.op.norm_group_size,
                                  .eps = static_cast<float>(p.op.norm_eps),
                                  .order = p.op.order,
                                  .out = row(out, s.first),
                                  .out_stride = out.stride(0)});
  if (p.mlp == 0) return;
  context.kernels.activation({.value = row(p.op.projected, s.first) + p.mlp,
                              .gate = row(p.op.projected, s.first),
                              .value_stride = p.op.projected.stride(0),
                              .gate_stride = p.op.projected.stride(0),
                              .rows = s.count,
                              .width = p.mlp,
                              .act = Activation::silu,
                              .out = row(p.op.out, s.first),
                              .out_stride = p.op.out.stride(0)});
}

}  // namespace

bool is_fusable(const Mixer& op) {
  const auto* start = op.batch.sequence_start.as<std::int32_t>();
  for (std::int64_t s = 0; s < op.batch.sequences; ++s)
    if (start[s + 1] - start[s] >= least_chunked_tokens) return false;
  return true;
}

void fused_mixer(Context& context, const Mixer& op) {
  const Parts p(op);
  const std::vector<Stretch> sequences = stretches(op.batch);
  std::vector<std::atomic<std::int64_t>> rows_left(sequences.size());
  for (std::atomic<std::int64_t>& left : rows_left) left.store(p.inner, std::memory_order_relaxed);
  context.reserve_scratch(least_chunked_tokens * (2 * p.state_size + p.heads) + conv_scratch_of(p));
  const auto count = static_cast<std::int64_t>(sequences.size());
  const std::int64_t rows = rows_of_a_head(p.head_dim, least_rows, count * p.heads, p.form, context.pool.threads());
  const std::int64_t parts_a_head = p.head_dim / rows, parts = p.heads * parts_a_head;
  const std::int64_t parts_a_group = p.heads_a_group * parts_a_head;
  const std::int64_t most_pieces = pieces_a_thread * context.pool.threads();
  const std::int64_t grain = (count * parts + most_pieces - 1) / most_pieces;
  context.pool.parallel_for(count * parts, grain, [&](std::int64_t begin, std::int64_t end, int worker) {
    while (begin < end) {
      const auto sequence = static_cast<std::size_t>(begin / parts);
      const Stretch& s = sequences[sequence];
      const std::int64_t first = begin % parts;
      const std::int64_t group_end = (first / parts_a_group + 1) * parts_a_group;
      const std::int64_t done = std::min(group_end - first, end - begin);
      step_rows(context, p, s, first * rows, (first + done) * rows, worker);
      begin += done;
      if (rows_left[sequence].fetch_sub(done * rows, std::memory_order_acq_rel) == done * rows)
        finish_sequence(context, p, s);
    }
  });
}

}  // namespace mamba2::cpu
