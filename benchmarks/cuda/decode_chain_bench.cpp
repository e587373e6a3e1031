// The layers of a decode step as one graph, and each of their kernels by itself in such a chain: what a kernel costs
// between its neighbours, launch gaps and overlap included.
#include <fmt/core.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "benchmarks/cuda/bench.h"
#include "benchmarks/cuda/decode_product.h"
#include "mamba2/cuda/check.h"
#include "mamba2/cuda/decode_layers.h"
#include "mamba2/cuda/mixer_step.h"
#include "mamba2/cuda/packed_weight.h"
#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

struct Model {
  const char* name;
  int hidden_size, num_heads, layers;
};
// layers: enough that no weight is still in the L2 cache when its turn comes again
constexpr Model models[] = {{"130m", 768, 24, 24}, {"370m", 1024, 32, 24}, {"2.7b", 2560, 80, 12}};
constexpr int head_dim = 64, state_size = 128, groups = 1;

class Chain {
 public:
  Chain(const Model& model, int rows, DType weight_dtype, DType state_dtype)
      : rows_(rows),
        weight_dtype_(weight_dtype),
        state_dtype_(state_dtype),
        hidden_(model.hidden_size),
        inner_(model.num_heads * head_dim),
        conv_dim_(inner_ + 2 * groups * state_size),
        projected_(inner_ + conv_dim_ + model.num_heads),
        heads_(model.num_heads) {
    const auto count = static_cast<std::size_t>(rows);
    auto elements = [&](std::size_t n, DType dtype) { return random_elements(n, dtype, random_); };
    residual_ = elements(count * static_cast<std::size_t>(hidden_), DType::f32);
    for (DeviceArray* buffer : {&normed_, &zxBCdt_, &y_, &convolved_})
      *buffer = elements(count * static_cast<std::size_t>(projected_), DType::f32);
    vector_ = elements(static_cast<std::size_t>(projected_) * 4, DType::f32);
    arrivals_ = DeviceArray(std::vector<std::int32_t>(count, 0));
    for (int i = 0; i < model.layers; ++i)
      layers_.push_back({weight(projected_, hidden_), weight(hidden_, inner_),
                         elements(count * static_cast<std::size_t>(inner_) * state_size, state_dtype_),
                         elements(count * static_cast<std::size_t>(conv_dim_) * 3, DType::f32)});
  }

  /// Microseconds a layer of a graph of those parts of all layers: the median of its replays.
  double microseconds(bool in_proj, bool mixer, bool out_proj) {
    return microseconds_of([&](cudaStream_t stream) {
      for (const Layer& layer : layers_) {
        if (in_proj) product(residual_, hidden_, layer.in_proj, projected_, zxBCdt_, ConstRows{}, stream);
        if (mixer) step(layer, in_proj, stream);
        if (out_proj)
          product(y_, inner_, layer.out_proj, hidden_, residual_, ConstRows{residual_.data(), hidden_}, stream);
      }
    });
  }

  /// The same of one kernel for all layers; 0 where it does not take the shape.
  double microseconds_at_once() {
    DecodeLayers op;
    op.shape = {hidden_,    heads_,
                state_size, static_cast<int>(layers_.size()),
                rows_,      static_cast<int>(element_size(state_dtype_))};
    if (weight_dtype_ != DType::bf16 || !decode_layers_takes(op.shape)) return 0;
    const DeviceArray exchange(
        std::vector<std::int32_t>(2 * static_cast<std::size_t>(DecodeExchange(op.shape).words), 0));
    std::vector<std::int32_t> slots;
    for (int i = 0; i < rows_; ++i) slots.push_back(i);
    const DeviceArray slots_on_device(slots);
    op.dt_max = 1.0F;
    op.slots = slots_on_device.ints();
    op.hidden = {residual_.data(), hidden_};
    op.exchange = static_cast<std::uint64_t*>(exchange.data());
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      DecodeLayer& layer = op.layer[i];
      layer.in_proj = layers_[i].in_proj.data();
      layer.out_proj = layers_[i].out_proj.data();
      layer.norm_weight = layer.gated_norm_weight = layer.conv_weight = layer.conv_bias = layer.dt_bias = layer.A_log =
          layer.D = vector_.floats();
      layer.conv_state = static_cast<float*>(layers_[i].conv_state.data());
      layer.ssm_state = layers_[i].ssm_state.data();
    }
    return microseconds_of([&](cudaStream_t stream) { decode_layers(op, stream); });
  }

 private:
  struct Layer {
    DeviceArray in_proj, out_proj, ssm_state, conv_state;
  };

  template <class Enqueue>
  double microseconds_of(Enqueue enqueue) {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreate(&stream), "make a stream");
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin to record a graph");
    enqueue(stream);
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream, &graph), "record a graph");
    cudaGraphExec_t exec = nullptr;
    check(cudaGraphInstantiate(&exec, graph, 0), "make a graph");
    cudaEvent_t start{}, stop{};
    check(cudaEventCreate(&start), "create an event");
    check(cudaEventCreate(&stop), "create an event");
    std::vector<double> times;
    constexpr int warm_up = 3, runs = 21;
    for (int run = 0; run < warm_up + runs; ++run) {
      check(cudaEventRecord(start, stream), "record an event");
      check(cudaGraphLaunch(exec, stream), "launch a graph");
      check(cudaEventRecord(stop, stream), "record an event");
      check(cudaEventSynchronize(stop), "wait for a graph");
      float milliseconds = 0.0F;
      check(cudaEventElapsedTime(&milliseconds, start, stop), "read a time");
      if (run >= warm_up) times.push_back(static_cast<double>(milliseconds) * 1e3);
    }
    std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
    (void)cudaEventDestroy(start);
    (void)cudaEventDestroy(stop);
    (void)cudaGraphExecDestroy(exec);
    (void)cudaGraphDestroy(graph);
    (void)cudaStreamDestroy(stream);
    return times[runs / 2] / static_cast<double>(layers_.size());
  }

  /// Random bits where it is packed: as f16, those of bf16s near 1 are near 2.
  DeviceArray weight(int outputs, int inputs) {
    const std::size_t bytes = weight_dtype_ == DType::bf16
                                  ? 2 * static_cast<std::size_t>(outputs) * static_cast<std::size_t>(inputs)
                                  : packed_bytes(weight_dtype_, outputs, inputs);
    return random_elements(bytes / 2, DType::bf16, random_);
  }

  void product(const DeviceArray& x, int inputs, const DeviceArray& weight, int outputs, const DeviceArray& out,
               const ConstRows& add, cudaStream_t stream) const {
    LinearRows op = decode_product(rows_, inputs, outputs, x, weight, weight_dtype_, out);
    op.add = add;
    if (op.x_dtype == DType::f32)
      op.norm = {.weight = vector_.floats(), .eps = 1e-5F, .normed = {normed_.data(), inputs}};
    multiply(op, stream);
  }

  void step(const Layer& layer, bool follows_product, cudaStream_t stream) const {
    MixerStep op;
    op.shape = {heads_, head_dim, groups, state_size};
    op.zxBCdt = {zxBCdt_.data(), projected_};
    op.conv_weight = op.conv_bias = op.dt_bias = op.A_log = op.D = vector_.floats();
    op.dt_max = 1.0F;
    op.sequences = rows_;
    op.conv_state = static_cast<float*>(layer.conv_state.data());
    op.ssm_state = layer.ssm_state.data();
    op.state_dtype = state_dtype_;
    op.state_is_settled = follows_product;
    op.out = {y_.data(), inner_};
    op.arrivals = static_cast<unsigned*>(arrivals_.data());
    if (static_cast<std::int64_t>(layer.ssm_state.size()) >= separate_convolution_bytes)
      op.convolved = static_cast<float*>(convolved_.data());
    mixer_step(op, stream);
  }

  int rows_;
  DType weight_dtype_, state_dtype_;
  int hidden_, inner_, conv_dim_, projected_, heads_;
  Random random_{1};
  DeviceArray residual_{std::size_t{4}}, normed_{std::size_t{4}}, zxBCdt_{std::size_t{4}}, y_{std::size_t{4}},
      convolved_{std::size_t{4}}, vector_{std::size_t{4}}, arrivals_{std::size_t{4}};
  std::vector<Layer> layers_;
};

}  // namespace

void bench_decode_chain() {
  for (const Model& model : models)
    for (const DType dtype : {DType::bf16, DType::q8_0, DType::q4_0, DType::q4_k})
      for (const int rows : {1, 8, 16}) {
        Chain chain(model, rows, dtype, DType::f32);
        fmt::print("{} {} batch {:2}, us a layer: all {:6.2f}   in_proj {:6.2f}   mixer {:6.2f}   out_proj {:6.2f}\n",
                   model.name, name(dtype), rows, chain.microseconds(true, true, true),
                   chain.microseconds(true, false, false), chain.microseconds(false, true, false),
                   chain.microseconds(false, false, true));
      }
}

void bench_decode_layers() {
  for (const Model& model : models)
    for (const DType state_dtype : {DType::f32, DType::bf16})
      for (const int rows : {1, 2, 4}) {
        Chain chain(model, rows, DType::bf16, state_dtype);
        fmt::print("{} {} state, batch {}, us a layer: one kernel for all {:6.2f}   three kernels each {:6.2f}\n",
                   model.name, name(state_dtype), rows, chain.microseconds_at_once(),
                   chain.microseconds(true, true, true));
      }
}

}  // namespace mamba2::cuda
