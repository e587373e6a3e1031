// What a Mamba-2 mixer does over time: convolution, step sizes, the scan.
#include <algorithm>
#include <cmath>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/cpu/context.h"

namespace mamba2::cpu {
namespace {

// Channels that one call of the convolution takes: their inputs of some tokens fit L1.
constexpr std::int64_t channels_in_a_block = 256;
// Sequences shorter than this go token by token: turning the state for the chunked form would cost more.
constexpr std::int64_t least_chunked_tokens = 12;
// Tokens of a chunk; 64 balances the products inside a chunk, which grow with it, against the turns of the state.
constexpr std::int64_t chunk_length = 64;
// Tokens of all sequences together whose scores are held at a time.
constexpr std::int64_t tokens_in_a_window = 4096;

/// Tokens [first, first + count) of the batch, of the sequence that owns `slot`.
struct Stretch {
  std::int64_t first, count, slot;
};

std::vector<Stretch> stretches(const Batch& batch) {
  const auto *start = batch.sequence_start.as<std::int32_t>(), *slots = batch.slots.as<std::int32_t>();
  std::vector<Stretch> found;
  for (std::int64_t s = 0; s < batch.sequences; ++s)
    if (start[s + 1] > start[s]) found.push_back({start[s], start[s + 1] - start[s], slots[s]});
  return found;
}

float* row(const Tensor& tensor, std::int64_t i) {
  return tensor.as<float>() + i * tensor.stride(0);
}
float* row(const Tensor& tensor, std::int64_t i, std::int64_t j) {
  return row(tensor, i) + j * tensor.stride(1);
}

float softplus(float x) {
  return std::max(x, 0.0F) + std::log1p(std::exp(-std::fabs(x)));
}

ScanTask scan_task(const SsdScan& op, const Stretch& s, std::int64_t head) {
  const std::int64_t group = head / (op.x.size(1) / op.B.size(1));
  const bool whole_head = op.D.rank() == 1;
  return {.x = row(op.x, s.first, head),
          .x_stride = op.x.stride(0),
          .dt = row(op.dt, s.first) + head,
          .dt_stride = op.dt.stride(0),
          .a = -std::exp(op.A_log.as<float>()[head]),
          .B = row(op.B, s.first, group),
          .C = row(op.C, s.first, group),
          .B_stride = op.B.stride(0),
          .C_stride = op.C.stride(0),
          .D = row(op.D, head),
          .D_step = whole_head ? 0 : 1,
          .state = row(op.ssm_state, s.slot, head),
          .state_stride = op.ssm_state.stride(2),
          .tokens = s.count,
          .head_dim = op.x.size(2),
          .state_size = op.B.size(2),
          .out = row(op.out, s.first, head),
          .out_stride = op.out.stride(0),
          .chunk = chunk_length,
          .scores = nullptr,
          .scratch = nullptr};
}

void scan_steps(Context& context, const SsdScan& op, const std::vector<Stretch>& sequences) {
  const std::int64_t heads = op.x.size(1);
  context.pool.parallel_for(
      static_cast<std::int64_t>(sequences.size()) * heads, 4, [&](std::int64_t begin, std::int64_t end, int) {
        for (std::int64_t i = begin; i < end; ++i)
          context.kernels.ssd_step(scan_task(op, sequences[static_cast<std::size_t>(i / heads)], i % heads));
      });
}

/// A chunk of one stretch, and where its scores begin (in rows of chunk_length).
struct Chunk {
  std::int64_t first, count, scores_row;
};

void scan_chunks(Context& context, const SsdScan& op, const std::vector<Stretch>& sequences) {
  const std::int64_t heads = op.x.size(1), groups = op.B.size(1);
  std::vector<Chunk> chunks;
  std::vector<std::int64_t> scores_row;
  std::int64_t rows = 0;
  for (const Stretch& s : sequences) {
    scores_row.push_back(rows);
    for (std::int64_t i = 0; i < s.count; i += chunk_length)
      chunks.push_back({s.first + i, std::min(chunk_length, s.count - i), rows + i});
    rows += s.count;
  }
  const HostBuffer scores(static_cast<std::size_t>(groups * rows * chunk_length) * sizeof(float));
  auto scores_at = [&](std::int64_t group, std::int64_t at) {
    return static_cast<float*>(scores.data()) + (group * rows + at) * chunk_length;
  };

  context.pool.parallel_for(static_cast<std::int64_t>(chunks.size()) * groups, 1,
                            [&](std::int64_t begin, std::int64_t end, int) {
                              for (std::int64_t i = begin; i < end; ++i) {
                                const Chunk& chunk = chunks[static_cast<std::size_t>(i / groups)];
                                context.kernels.ssd_scores({.B = row(op.B, chunk.first, i % groups),
                                                            .C = row(op.C, chunk.first, i % groups),
                                                            .B_stride = op.B.stride(0),
                                                            .C_stride = op.C.stride(0),
                                                            .tokens = chunk.count,
                                                            .state_size = op.B.size(2),
                                                            .scores = scores_at(i % groups, chunk.scores_row),
                                                            .scores_stride = chunk_length});
                              }
                            });
  context.reserve_scratch(scan_scratch(chunk_length, op.x.size(2), op.B.size(2)));
  context.pool.parallel_for(static_cast<std::int64_t>(sequences.size()) * heads, 1,
                            [&](std::int64_t begin, std::int64_t end, int worker) {
                              for (std::int64_t i = begin; i < end; ++i) {
                                const auto s = static_cast<std::size_t>(i / heads);
                                const std::int64_t head = i % heads;
                                ScanTask task = scan_task(op, sequences[s], head);
                                task.scores = scores_at(head / (heads / groups), scores_row[s]);
                                task.scratch = context.scratch(worker);
                                context.kernels.ssd_chunks(task);
                              }
                            });
}

}  // namespace

void causal_conv(Context& context, const CausalConv& op) {
  const std::vector<Stretch> sequences = stretches(op.batch);
  const std::int64_t conv_dim = op.x.size(1), conv_kernel = op.weight.size(1);
  const std::int64_t blocks = (conv_dim + channels_in_a_block - 1) / channels_in_a_block;
  context.reserve_scratch(conv_scratch(channels_in_a_block, conv_kernel));
  context.pool.parallel_for(static_cast<std::int64_t>(sequences.size()) * blocks, 1,
                            [&](std::int64_t begin, std::int64_t end, int worker) {
                              for (std::int64_t i = begin; i < end; ++i) {
                                const Stretch& s = sequences[static_cast<std::size_t>(i / blocks)];
                                const std::int64_t c = i % blocks * channels_in_a_block;
                                context.kernels.conv({.x = row(op.x, s.first) + c,
                                                      .x_stride = op.x.stride(0),
                                                      .tokens = s.count,
                                                      .channels = std::min(channels_in_a_block, conv_dim - c),
                                                      .conv_kernel = conv_kernel,
                                                      .weight = row(op.weight, c),
                                                      .weight_stride = op.weight.stride(0),
                                                      .bias = op.bias.empty() ? nullptr : op.bias.as<float>() + c,
                                                      .act = op.act,
                                                      .state = row(op.conv_state, s.slot, c),
                                                      .state_stride = op.conv_state.stride(1),
                                                      .out = row(op.out, s.first) + c,
                                                      .out_stride = op.out.stride(0),
                                                      .scratch = context.scratch(worker)});
                              }
                            });
}

void time_step(Context& context, const TimeStep& op) {
  const float low = static_cast<float>(op.limit.min), high = static_cast<float>(op.limit.max);
  const float* const bias = op.dt_bias.as<float>();
  context.pool.parallel_for(op.dt_raw.size(0), 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t t = begin; t < end; ++t) {
      const float* const raw = row(op.dt_raw, t);
      float* const out = row(op.out, t);
      for (std::int64_t h = 0; h < op.dt_raw.size(1); ++h)
        out[h] = std::min(std::max(softplus(raw[h] + bias[h]), low), high);
    }
  });
}

void ssd_scan(Context& context, const SsdScan& op) {
  require(op.ssm_state.dtype == DType::f32, "SsdScan: ssm_state is {}, the cpu backend keeps it in f32",
          name(op.ssm_state.dtype));
  std::vector<Stretch> short_ones, long_ones;
  const bool sequential = context.scan_form == ScanForm::sequential;
  for (const Stretch& s : stretches(op.batch))
    (sequential || s.count < least_chunked_tokens ? short_ones : long_ones).push_back(s);
  if (!short_ones.empty()) scan_steps(context, op, short_ones);
  while (!long_ones.empty()) {
    const std::int64_t even_share = tokens_in_a_window / static_cast<std::int64_t>(long_ones.size());
    const std::int64_t window = std::max(chunk_length, even_share / chunk_length * chunk_length);
    std::vector<Stretch> now, later;
    for (const Stretch& s : long_ones) {
      now.push_back({s.first, std::min(s.count, window), s.slot});
      if (s.count > window) later.push_back({s.first + window, s.count - window, s.slot});
    }
    scan_chunks(context, op, now);
    long_ones = std::move(later);
  }
}

}  // namespace mamba2::cpu
