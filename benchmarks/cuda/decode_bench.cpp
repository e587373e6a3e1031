// What one decode step does to memory, piece by piece.
#include <fmt/core.h>

#include <numeric>

#include "benchmarks/cuda/bench.h"
#include "benchmarks/cuda/decode_product.h"
#include "mamba2/cuda/mixer_step.h"
#include "mamba2/cuda/packed_weight.h"
#include "mamba2/cuda/pending_step.h"
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

/// How a step keeps its states: written each time, or with inputs that are pending beside them.
enum class States : std::uint8_t { written, pending };

/// A decode step's operands for sequences of different lengths, and the step made of them.
class StepOperands {
 public:
  StepOperands(const Model& model, int sequences, DType state_dtype)
      : model_(model), count_(static_cast<std::size_t>(sequences)), state_dtype_(state_dtype) {}

  void run(States states, bool by_chance) {
    step_.rounding = by_chance ? StochasticRounding{.positions = positions_.ints(), .layer = 3} : StochasticRounding{};
    const bool pending = states == States::pending;
    const double milliseconds = median_milliseconds([&](cudaStream_t stream) {
      if (pending)
        pending_step({.step = step_, .ring = ring_, .positions = positions_.ints(), .layer = 3}, stream);
      else
        mixer_step(step_, stream);
    });
    report(fmt::format("{} {} batch {} state {}{}", pending ? "pending_step" : "mixer_step", model_.name, count_,
                       name(state_dtype_), by_chance ? " by chance" : ""),
           milliseconds, bytes(states));
  }

 private:
  int inner() const { return model_.num_heads * head_dim; }
  int conv_dim() const { return inner() + 2 * model_.n_groups * state_size; }
  int stride() const { return (inner() + conv_dim() + model_.num_heads + 7) / 8 * 8; }
  std::size_t states() const { return count_ * static_cast<std::size_t>(inner()) * state_size; }
  /// Elements of a token's inputs to one sequence.
  std::size_t input_elements() const {
    return static_cast<std::size_t>(inner()) + static_cast<std::size_t>(model_.n_groups) * state_size;
  }

  /// That must move.  Of a room of n pending inputs (n - 1) / 2 are read on average and one is written, and of n heads
  /// one is written.
  double bytes(States states) const {
    const double element = static_cast<double>(element_size(state_dtype_)), room = pending_room;
    const double state = static_cast<double>(this->states()) * element;
    const double input =
        static_cast<double>(count_) * (static_cast<double>(input_elements()) * element + 4.0 * model_.num_heads);
    return (states == States::written ? 2 * state : state * (1 + 1 / room) + input * ((room - 1) / 2 + 1)) +
           static_cast<double>(count_) * (4.0 * (stride() + inner()) + 24.0 * conv_dim()) + 20.0 * conv_dim();
  }

  std::vector<std::int32_t> different_positions() const {
    std::vector<std::int32_t> positions;
    for (std::size_t i = 0; i < count_; ++i) positions.push_back(static_cast<std::int32_t>(1000 + i * 7919 % 64));
    return positions;
  }
  MixerStep make_step() const {
    MixerStep step;
    step.shape = {model_.num_heads, head_dim, model_.n_groups, state_size};
    step.zxBCdt = {row_.data(), stride()};
    step.conv_weight = weight_.floats();
    step.conv_bias = bias_.floats();
    step.dt_bias = heads_.floats();
    step.dt_max = 1e30F;
    step.A_log = A_log_.floats();
    step.D = heads_.floats();
    step.sequences = static_cast<int>(count_);
    step.conv_state = static_cast<float*>(conv_state_.data());
    step.ssm_state = ssm_state_.data();
    step.state_dtype = state_dtype_;
    step.slots = slots_.ints();
    if (static_cast<std::int64_t>(states() * element_size(state_dtype_)) >= separate_convolution_bytes)
      step.convolved = static_cast<float*>(convolved_.data());
    step.out = {out_.data(), inner()};
    step.arrivals = static_cast<unsigned*>(arrivals_.data());
    return step;
  }
  std::vector<std::int32_t> in_order() const {
    std::vector<std::int32_t> slots(count_);
    std::iota(slots.begin(), slots.end(), 0);
    return slots;
  }
  DeviceArray of_each(std::size_t elements, DType dtype) { return random_elements(count_ * elements, dtype, random_); }

  Model model_;
  std::size_t count_;
  DType state_dtype_;
  Random random_{1};
  const std::size_t conv_ = static_cast<std::size_t>(conv_dim()),
                    num_heads_ = static_cast<std::size_t>(model_.num_heads);
  DeviceArray row_ = of_each(static_cast<std::size_t>(stride()), DType::f32);
  DeviceArray weight_ = random_elements(conv_ * 4, DType::f32, random_),
              bias_ = random_elements(conv_, DType::f32, random_);
  DeviceArray heads_{normal_values(num_heads_, random_, 0.1), DType::f32};
  DeviceArray A_log_{std::vector<double>(num_heads_, 0.0), DType::f32};
  DeviceArray ssm_state_ = of_each(static_cast<std::size_t>(inner()) * state_size, state_dtype_);
  DeviceArray conv_state_ = of_each(conv_ * 3, DType::f32);
  DeviceArray out_{count_ * static_cast<std::size_t>(inner()) * 4}, convolved_{count_ * conv_ * 4};
  DeviceArray arrivals_{std::vector<std::int32_t>(count_ * static_cast<std::size_t>(model_.n_groups), 0)};
  DeviceArray slots_{in_order()}, positions_{different_positions()};
  DeviceArray since_{std::vector<std::int32_t>(count_, 0)};
  DeviceArray input_ = of_each(static_cast<std::size_t>(inner()) * pending_room, state_dtype_);
  DeviceArray B_ = of_each(static_cast<std::size_t>(model_.n_groups) * state_size * pending_room, state_dtype_);
  DeviceArray log_decay_{std::vector<double>(count_ * num_heads_ * pending_room, -0.1), DType::f32};
  PendingRing ring_{input_.data(), B_.data(), static_cast<float*>(log_decay_.data()), since_.ints()};
  MixerStep step_ = make_step();
};

void bench_step(const Model& model, int sequences, DType state_dtype) {
  StepOperands(model, sequences, state_dtype).run(States::written, false);
}

/// Both ways on the same operands.
void bench_pending_step(const Model& model, int sequences, DType state_dtype) {
  StepOperands operands(model, sequences, state_dtype);
  for (const States states : {States::written, States::pending}) {
    operands.run(states, false);
    if (state_dtype != DType::f32) operands.run(states, true);
  }
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
    for (const int sequences : {1, 8, 64}) bench_step(model, sequences, DType::f32);
  bench_step(models[1], 1, DType::bf16);
}

void bench_states() {
  for (const DType state_dtype : {DType::bf16, DType::f32}) {
    bench_pending_step(models[1], 256, state_dtype);
    bench_pending_step(models[1], 64, state_dtype);
    bench_pending_step(models[0], 256, state_dtype);
  }
}

}  // namespace mamba2::cuda
