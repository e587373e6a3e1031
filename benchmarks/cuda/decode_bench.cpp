// What one decode step does to memory, piece by piece.
#include <fmt/core.h>

#include "benchmarks/cuda/bench.h"
#include "benchmarks/cuda/decode_product.h"
#include "mamba2/cuda/mixer_step.h"
#include "mamba2/cuda/packed_weight.h"
#include "mamba2/cuda/unpack_rows.h"
#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

struct Model {
  const char* name;
  int hidden_size, num_heads, n_groups;
};
constexpr Model models[] = {{"130m", 768, 24, 1}, {"2.7b", 2560, 80, 1}, {"codestral-7b", 4096, 128, 8}};
constexpr int head_dim = 64, state_size = 128;

void bench_product(const std::string& what, int rows, int inputs, int outputs) {
  Random random(1);
  const DeviceArray x = random_elements(static_cast<std::size_t>(rows) * static_cast<std::size_t>(inputs),
                                        rows > few_rows_limit ? DType::bf16 : DType::f32, random);
  const DeviceArray weight =
      random_elements(static_cast<std::size_t>(outputs) * static_cast<std::size_t>(inputs), DType::bf16, random);
  const DeviceArray out(static_cast<std::size_t>(rows * outputs) * 4);
  const LinearRows product = decode_product(rows, inputs, outputs, x, weight, DType::bf16, out);
  const double milliseconds = median_milliseconds([&](cudaStream_t stream) { multiply(product, stream); });
  report(fmt::format("linear {} {} x {} x {}", what, rows, inputs, outputs), milliseconds,
         2.0 * static_cast<double>(outputs) * inputs + 4.0 * static_cast<double>(rows) * (inputs + outputs));
}

/// The same with a packed weight, whose bits are random: f16 scales of every size, and what a kernel reads is what
/// counts.
void bench_packed_product(const std::string& what, DType dtype, int rows, int inputs, int outputs) {
  Random random(1);
  const DType x_dtype = rows > few_rows_limit ? DType::bf16 : DType::f32;
  const DeviceArray x =
      random_elements(static_cast<std::size_t>(rows) * static_cast<std::size_t>(inputs), x_dtype, random);
  const std::size_t bytes = packed_bytes(dtype, outputs, inputs);
  const DeviceArray weight = random_elements(bytes / 2, DType::bf16, random);
  const DeviceArray out(static_cast<std::size_t>(rows) * static_cast<std::size_t>(outputs) * 4);
  const LinearRows product = decode_product(rows, inputs, outputs, x, weight, dtype, out);
  const double milliseconds = median_milliseconds([&](cudaStream_t stream) { multiply(product, stream); });
  report(fmt::format("linear {} {} {} x {} x {}", name(dtype), what, rows, inputs, outputs), milliseconds,
         static_cast<double>(bytes) + 4.0 * static_cast<double>(rows) * (inputs + outputs));
}

/// Unpacking a weight for a product of many rows.
void bench_unpacking(DType dtype, int inputs, int outputs) {
  Random random(1);
  const std::size_t bytes = packed_bytes(dtype, outputs, inputs);
  const std::size_t elements = static_cast<std::size_t>(inputs) * static_cast<std::size_t>(outputs);
  const DeviceArray weight = random_elements(bytes / 2, DType::bf16, random), out(elements * 2);
  UnpackRows op{.count = outputs, .columns = inputs, .weight = weight.data(), .weight_dtype = dtype};
  op.weight_rows = outputs;
  op.out = {out.data(), inputs};
  op.out_dtype = DType::bf16;
  const double milliseconds = median_milliseconds([&](cudaStream_t stream) { unpack_rows(op, stream); });
  report(fmt::format("unpack {} {} x {}", name(dtype), outputs, inputs), milliseconds,
         static_cast<double>(bytes) + 2.0 * static_cast<double>(elements));
}

void bench_step(const Model& model, int sequences, DType state_dtype, bool by_chance) {
  Random random(1);
  const int inner = model.num_heads * head_dim, conv_dim = inner + 2 * model.n_groups * state_size;
  const int stride = (inner + conv_dim + model.num_heads + 7) / 8 * 8;
  const auto count = static_cast<std::size_t>(sequences);
  const DeviceArray row = random_elements(count * static_cast<std::size_t>(stride), DType::f32, random);
  const DeviceArray weight(normal_values(static_cast<std::size_t>(conv_dim) * 4, random), DType::f32);
  const DeviceArray bias(normal_values(static_cast<std::size_t>(conv_dim), random), DType::f32);
  const DeviceArray heads(normal_values(static_cast<std::size_t>(model.num_heads), random, 0.1), DType::f32);
  const DeviceArray A_log(std::vector<double>(static_cast<std::size_t>(model.num_heads), 0.0), DType::f32);
  const std::size_t states = count * static_cast<std::size_t>(inner) * state_size;
  const DeviceArray ssm_state = random_elements(states, state_dtype, random);
  const DeviceArray conv_state = random_elements(count * static_cast<std::size_t>(conv_dim) * 3, DType::f32, random);
  const DeviceArray out(count * static_cast<std::size_t>(inner) * 4),
      arrivals(std::vector<std::int32_t>(count * static_cast<std::size_t>(model.n_groups), 0));
  const DeviceArray positions(std::vector<std::int32_t>(count, 7)),
      convolved(count * static_cast<std::size_t>(conv_dim) * 4);
  MixerStep step;
  step.shape = {model.num_heads, head_dim, model.n_groups, state_size};
  step.zxBCdt = {row.data(), stride};
  step.conv_weight = weight.floats();
  step.conv_bias = bias.floats();
  step.dt_bias = heads.floats();
  step.dt_max = 1e30F;
  step.A_log = A_log.floats();
  step.D = heads.floats();
  step.sequences = sequences;
  step.conv_state = static_cast<float*>(conv_state.data());
  step.ssm_state = ssm_state.data();
  step.state_dtype = state_dtype;
  if (by_chance) step.rounding = {.positions = positions.ints(), .layer = 3};
  if (static_cast<std::int64_t>(states * element_size(state_dtype)) >= separate_convolution_bytes)
    step.convolved = static_cast<float*>(convolved.data());
  step.out = {out.data(), inner};
  step.arrivals = static_cast<unsigned*>(arrivals.data());
  const double milliseconds = median_milliseconds([&](cudaStream_t stream) { mixer_step(step, stream); });
  const double bytes = 2.0 * static_cast<double>(states * element_size(state_dtype)) +
                       static_cast<double>(count) * (4.0 * (stride + inner) + 24.0 * conv_dim) + 20.0 * conv_dim;
  report(fmt::format("mixer_step {} batch {} state {}{}", model.name, sequences, name(state_dtype),
                     by_chance ? " by chance" : ""),
         milliseconds, bytes);
}

}  // namespace

void bench_packed() {
  for (const DType dtype : {DType::q8_0, DType::q4_0, DType::q4_k, DType::q6_k}) {
    for (const int rows : {1, 2, 8, 16, 32, 64}) {
      bench_packed_product("2.7b in_proj", dtype, rows, 2560, 10576);
      bench_packed_product("2.7b out_proj", dtype, rows, 5120, 2560);
      bench_packed_product("2.7b lm_head", dtype, rows, 2560, 50288);
      bench_packed_product("130m in_proj", dtype, rows, 768, 3352);
      bench_packed_product("130m out_proj", dtype, rows, 1536, 768);
    }
    bench_unpacking(dtype, 2560, 10576);
  }
}

void bench_decode() {
  for (const int rows : {1, 8, 16, 32}) {
    bench_product("2.7b in_proj", rows, 2560, 10576);
    bench_product("2.7b out_proj", rows, 5120, 2560);
    bench_product("2.7b lm_head", rows, 2560, 50288);
    bench_product("130m in_proj", rows, 768, 3352);
    bench_product("130m out_proj", rows, 1536, 768);
  }
  bench_product("codestral in_proj", 1, 4096, 18560);
  for (const Model& model : models)
    for (const int sequences : {1, 8, 64, 256}) bench_step(model, sequences, DType::f32, false);
  for (const int sequences : {1, 64, 256}) bench_step(models[1], sequences, DType::bf16, false);
  bench_step(models[1], 256, DType::bf16, true);
}

}  // namespace mamba2::cuda
