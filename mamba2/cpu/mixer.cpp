// What comes before a mixer's scan: the convolution over time and the step sizes.
#include <algorithm>
#include <vector>

#include "mamba2/cpu/context.h"
#include "mamba2/cpu/stretches.h"

namespace mamba2::cpu {
namespace {

// Channels that one call of the convolution takes: their inputs of some tokens fit L1.
constexpr std::int64_t most_channels_in_a_block = 256;
constexpr std::int64_t channels_step = 16;  // a cache line

// Step sizes that a thread computes at least, each an exponential and a logarithm.
constexpr std::int64_t least_time_steps_a_piece = 1024;

/// So that all threads have equal numbers of blocks.
std::int64_t channels_in_a_block(std::int64_t conv_dim, std::int64_t sequences, std::int64_t threads) {
  const std::int64_t blocks = (conv_dim + most_channels_in_a_block - 1) / most_channels_in_a_block;
  const std::int64_t rounds = (sequences * blocks + threads - 1) / threads;
  const std::int64_t wanted = std::max(blocks, rounds * threads / std::max<std::int64_t>(sequences, 1));
  const std::int64_t width = (conv_dim + wanted - 1) / wanted;
  return (width + channels_step - 1) / channels_step * channels_step;
}

}  // namespace

void causal_conv(Context& context, const CausalConv& op) {
  const std::vector<Stretch> sequences = stretches(op.batch);
  const std::int64_t conv_dim = op.x.size(1), conv_kernel = op.weight.size(1);
  const std::int64_t width =
      channels_in_a_block(conv_dim, static_cast<std::int64_t>(sequences.size()), context.pool.threads());
  const std::int64_t blocks = (conv_dim + width - 1) / width;
  context.reserve_scratch(conv_scratch(width, conv_kernel));
  context.pool.parallel_for(static_cast<std::int64_t>(sequences.size()) * blocks, 1,
                            [&](std::int64_t begin, std::int64_t end, int worker) {
                              for (std::int64_t i = begin; i < end; ++i) {
                                const Stretch& s = sequences[static_cast<std::size_t>(i / blocks)];
                                const std::int64_t c = i % blocks * width;
                                context.kernels.conv({.x = row(op.x, s.first) + c,
                                                      .x_stride = op.x.stride(0),
                                                      .tokens = s.count,
                                                      .channels = std::min(width, conv_dim - c),
                                                      .conv_kernel = conv_kernel,
                                                      .weight = row(op.weight, c),
                                                      .weight_stride = op.weight.stride(0),
                                                      .bias = op.bias.empty() ? nullptr : op.bias.as<float>() + c,
                                                      .act = op.act,
                                                      .before = row(op.conv_state, s.slot, c),
                                                      .state = row(op.conv_state, s.slot, c),
                                                      .state_stride = op.conv_state.stride(1),
                                                      .out = row(op.out, s.first) + c,
                                                      .out_stride = op.out.stride(0),
                                                      .scratch = context.scratch(worker)});
                              }
                            });
}

void time_step(Context& context, const TimeStep& op) {
  context.pool.parallel_for(op.dt_raw.size(0), least_time_steps_a_piece / (op.dt_raw.size(1) + 1) + 1,
                            [&](std::int64_t begin, std::int64_t end, int) {
                              context.kernels.time_step({.dt_raw = row(op.dt_raw, begin),
                                                         .dt_raw_stride = op.dt_raw.stride(0),
                                                         .rows = end - begin,
                                                         .width = op.dt_raw.size(1),
                                                         .bias = op.dt_bias.as<float>(),
                                                         .low = static_cast<float>(op.limit.min),
                                                         .high = static_cast<float>(op.limit.max),
                                                         .out = row(op.out, begin),
                                                         .out_stride = op.out.stride(0)});
                            });
}

}  // namespace mamba2::cpu
