// The state space dual scan: sequences of a few tokens by the recurrence, longer ones by chunks.
#include <algorithm>
#include <cmath>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/cpu/chunk_length.h"
#include "mamba2/cpu/context.h"
#include "mamba2/cpu/stretches.h"

namespace mamba2::cpu {
namespace {

// The smallest level 2 cache of processors in use.  Not this machine's: a chunk's length decides how results are
// rounded, which should not differ between machines of one instruction set.
constexpr std::int64_t l2_bytes = 256 * 1024;

// Tokens of one sequence that are scanned between two writes of its state, and of all sequences whose scores are held
// at a time (unless one alone has more).
constexpr std::int64_t tokens_in_a_window = 1024;

ScanTask scan_task(const SsdScan& op, StateForm form, const Stretch& s, std::int64_t head) {
  const std::int64_t group = head / (op.x.size(1) / op.B.size(1));
  ScanTask task{};
  task.x = row(op.x, s.first, head);
  task.x_stride = op.x.stride(0);
  task.dt = row(op.dt, s.first) + head;
  task.dt_stride = op.dt.stride(0);
  task.B = row(op.B, s.first, group);
  task.C = row(op.C, s.first, group);
  task.B_stride = op.B.stride(0);
  task.C_stride = op.C.stride(0);
  task.tokens = s.count;
  task.head_dim = op.x.size(2);
  task.state_size = op.B.size(2);
  task.out = row(op.out, s.first, head);
  task.out_stride = op.out.stride(0);
  set_head(task, {op.A_log, op.D, op.ssm_state, form, op.layer, op.batch}, s, head);
  return task;
}

void scan_steps(Context& context, const SsdScan& op, const std::vector<Stretch>& sequences) {
  const std::int64_t heads = op.x.size(1);
  const StateForm form = state_form(op.ssm_state, op.rounding);
  context.pool.parallel_for(
      static_cast<std::int64_t>(sequences.size()) * heads, 1, [&](std::int64_t begin, std::int64_t end, int) {
        for (std::int64_t i = begin; i < end; ++i)
          context.kernels.ssd_step(scan_task(op, form, sequences[static_cast<std::size_t>(i / heads)], i % heads));
      });
}

/// The chunked form takes as many rows at a time on AVX-512; elsewhere fewer would repeat what a chunk does for all
/// rows.
std::int64_t least_rows(Isa isa) {
  return isa >= Isa::avx512 ? 64 : 32;
}

/// A chunk of one stretch, and at which row of all stretches' tokens its scores begin.
struct Chunk {
  std::int64_t first, count, scores_row;
};

void scan_chunks(Context& context, const SsdScan& op, const std::vector<Stretch>& sequences) {
  const std::int64_t heads = op.x.size(1), groups = op.B.size(1);
  const std::int64_t head_dim = op.x.size(2), state_size = op.B.size(2), packed_width = 2 * state_size;
  const std::int64_t chunk = chunk_length(head_dim, state_size, l2_bytes);
  const StateForm form = state_form(op.ssm_state, op.rounding);
  std::vector<Chunk> chunks;
  std::vector<std::int64_t> scores_row;
  std::int64_t rows = 0;
  for (const Stretch& s : sequences) {
    scores_row.push_back(rows);
    for (std::int64_t i = 0; i < s.count; i += chunk)
      chunks.push_back({s.first + i, std::min(chunk, s.count - i), rows + i});
    rows += s.count;
  }
  const auto floats = static_cast<std::size_t>(groups * rows * (chunk + packed_width));
  auto* const scores = static_cast<float*>(context.shared_scratch(floats * sizeof(float)));
  float* const packed = scores + groups * rows * chunk;
  auto scores_at = [&](std::int64_t group, std::int64_t at) { return scores + (group * rows + at) * chunk; };
  auto packed_at = [&](std::int64_t group, std::int64_t at) { return packed + (group * rows + at) * packed_width; };

  context.pool.parallel_for(static_cast<std::int64_t>(chunks.size()) * groups, 1,
                            [&](std::int64_t begin, std::int64_t end, int) {
                              for (std::int64_t i = begin; i < end; ++i) {
                                const Chunk& c = chunks[static_cast<std::size_t>(i / groups)];
                                context.kernels.ssd_scores({.B = row(op.B, c.first, i % groups),
                                                            .C = row(op.C, c.first, i % groups),
                                                            .B_stride = op.B.stride(0),
                                                            .C_stride = op.C.stride(0),
                                                            .tokens = c.count,
                                                            .state_size = state_size,
                                                            .scores = scores_at(i % groups, c.scores_row),
                                                            .scores_stride = chunk,
                                                            .packed = packed_at(i % groups, c.scores_row)});
                              }
                            });
  context.reserve_scratch(scan_scratch(chunk, head_dim, state_size));
  const auto count = static_cast<std::int64_t>(sequences.size());
  const std::int64_t part_rows =
      rows_of_a_head(head_dim, least_rows(context.isa), count * heads, form, context.pool.threads());
  const std::int64_t parts = head_dim / part_rows;
  context.pool.parallel_for(count * heads * parts, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto s = static_cast<std::size_t>(i / parts / heads);
      const std::int64_t head = i / parts % heads;
      ScanTask task = scan_task(op, form, sequences[s], head);
      take_rows(task, i % parts * part_rows, part_rows);
      task.chunk = chunk;
      const std::int64_t group = head / (heads / groups);
      task.scores = scores_at(group, scores_row[s]);
      task.packed = packed_at(group, scores_row[s]);
      task.scratch = context.scratch(worker);
      context.kernels.ssd_chunks(task);
    }
  });
}

}  // namespace

StateForm state_form(const Tensor& ssm_state, StateRounding rounding) {
  if (ssm_state.dtype == DType::f32) return StateForm::f32;
  require(ssm_state.dtype == DType::bf16, "SsdScan: ssm_state is {}, the cpu backend keeps it in f32 or bf16",
          name(ssm_state.dtype));
  return rounding == StateRounding::nearest ? StateForm::bf16 : StateForm::bf16_stochastic;
}

void set_head(ScanTask& task, const HeadOperands& operands, const Stretch& s, std::int64_t head) {
  task.a = -std::exp(operands.A_log.as<float>()[head]);
  task.D = row(operands.D, head);
  task.D_step = operands.D.rank() == 1 ? 0 : 1;
  const Tensor& state = operands.ssm_state;
  task.state = state.as<std::byte>() + (s.slot * state.stride(0) + head * state.stride(1)) *
                                           static_cast<std::int64_t>(element_size(state.dtype));
  task.state_stride = state.stride(2);
  task.state_form = operands.form;
  task.head = static_cast<std::uint32_t>(head);
  task.layer = static_cast<std::uint32_t>(operands.layer);
  if (task.state_form == StateForm::bf16_stochastic)
    task.positions = operands.batch.positions.as<std::int32_t>() + s.first;
}

void take_rows(ScanTask& task, std::int64_t first, std::int64_t count) {
  task.x += first;
  task.out += first;
  task.D += first * task.D_step;
  const std::size_t element = task.state_form == StateForm::f32 ? sizeof(float) : sizeof(std::uint16_t);
  task.state = static_cast<std::byte*>(task.state) + first * task.state_stride * static_cast<std::int64_t>(element);
  task.head_dim = count;
}

std::int64_t rows_of_a_head(std::int64_t head_dim, std::int64_t least, std::int64_t heads, StateForm form,
                            std::int64_t threads) {
  constexpr std::int64_t wanted_percent = 90;  // of the threads' time in use
  std::int64_t rows = head_dim;
  for (std::int64_t pieces = heads; form != StateForm::bf16_stochastic && rows % (2 * least) == 0; pieces *= 2) {
    const std::int64_t rounds = (pieces + threads - 1) / threads;
    if (100 * pieces >= wanted_percent * rounds * threads) break;
    rows /= 2;
  }
  return rows;
}

void ssd_scan(Context& context, const SsdScan& op) {
  std::vector<Stretch> short_ones, long_ones;
  const bool sequential = context.scan_form == ScanForm::sequential;
  for (const Stretch& s : stretches(op.batch))
    (sequential || s.count < least_chunked_tokens ? short_ones : long_ones).push_back(s);
  if (!short_ones.empty()) scan_steps(context, op, short_ones);
  // Where a sequence is cut does not depend on its neighbours, so neither does how often a 16-bit state is rounded.
  while (!long_ones.empty()) {
    std::vector<Stretch> now, later;
    std::int64_t tokens = 0;
    for (const Stretch& s : long_ones) {
      const std::int64_t count = std::min(s.count, tokens_in_a_window);
      if (tokens > 0 && tokens + count > tokens_in_a_window) {
        later.push_back(s);
        continue;
      }
      now.push_back({s.first, count, s.slot});
      tokens += count;
      if (s.count > count) later.push_back({s.first + count, s.count - count, s.slot});
    }
    scan_chunks(context, op, now);
    long_ones = std::move(later);
  }
}

}  // namespace mamba2::cpu
