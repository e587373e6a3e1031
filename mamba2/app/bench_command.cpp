#include <sched.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "mamba2/app/commands.h"
#include "mamba2/app/interrupt.h"
#include "mamba2/app/machine.h"
#include "mamba2/app/options.h"
#include "mamba2/app/random_model.h"
#include "mamba2/base/error.h"
#include "mamba2/cpu/isa.h"
#include "mamba2/model/locate.h"

namespace mamba2::app {
namespace {

struct BenchCommand {
  ModelOptions options;
  std::string shape;
  std::vector<std::int64_t> prompts{512}, batches{1};
  std::int64_t generate = 64;
  int repeat = 3;

  void run();
};

int threads_used(int asked) {
  if (asked > 0) return asked;
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

/// Bytes of the matrices that a token's forward pass reads, and of one sequence's state, read and written.
struct Traffic {
  std::int64_t weights = 0, state = 0;
};

Traffic traffic_of(const Mamba2ForCausalLM& model) {
  const Mamba2Config& config = model.config();
  Traffic traffic;
  ModelWeights& weights = const_cast<ModelWeights&>(model.model().weights());
  for (const TensorSlot& slot : tensor_table(config, weights)) {
    if (slot.matrix == nullptr || slot.name == "backbone.embeddings.weight") continue;
    traffic.weights += static_cast<std::int64_t>(bytes_for((*slot.matrix)->dtype, slot.shape.elements()));
  }
  const PreparedWeight& head = *model.model().weights().head();
  traffic.weights += static_cast<std::int64_t>(bytes_for(head.dtype, head.shape.elements()));
  traffic.state = 2 * static_cast<std::int64_t>(model.make_cache(1).bytes_per_slot());
  return traffic;
}

/// Seconds to feed `tokens` tokens to each of `batch` fresh sequences.
double time_prefill(Mamba2ForCausalLM& model, Mamba2Cache& cache, std::int64_t tokens, std::int64_t batch) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens));
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::int32_t>(i * 7919 % static_cast<std::size_t>(model.config().vocab_size));
  std::vector<SequenceInput> inputs;
  for (std::int64_t b = 0; b < batch; ++b) inputs.push_back({.input_ids = ids, .slot = b});
  cache.reset();
  const auto start = std::chrono::steady_clock::now();
  model.forward(inputs, cache);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double time_decode(Mamba2ForCausalLM& model, Mamba2Cache& cache, std::int64_t steps, std::int64_t batch) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(batch), 1);
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t step = 0; step < steps; ++step) {
    std::vector<SequenceInput> inputs;
    for (std::size_t b = 0; b < ids.size(); ++b)
      inputs.push_back({.input_ids = std::span(ids).subspan(b, 1), .slot = static_cast<std::int64_t>(b)});
    const ForwardOutput output = model.forward(inputs, cache);
    for (std::size_t b = 0; b < ids.size(); ++b) {
      const Tensor row = output.logits.view()[static_cast<std::int64_t>(b)];
      ids[b] =
          static_cast<std::int32_t>(std::max_element(row.as<float>(), row.as<float>() + row.size(0)) - row.as<float>());
    }
    check_interrupt();
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void BenchCommand::run() {
  catch_interrupts();
  std::optional<Mamba2Model> backbone;
  if (shape.empty()) {
    backbone.emplace(Mamba2Model::from_pretrained(options.model_path(), options.load));
  } else {
    const Mamba2Config config = config_of_shape(shape);
    backbone.emplace(config, random_weights(config), options.load);
  }
  Mamba2ForCausalLM model(std::move(*backbone));
  const int threads = threads_used(options.load.threads);
  const MachineLimits limits = measure_limits(model.model().backend(), threads);
  const Traffic traffic = traffic_of(model);

  Json runs = Json::array();
  auto add = [&](const char* phase, std::int64_t tokens, std::int64_t batch, double seconds) {
    const bool decode = std::string_view(phase) == "decode";
    const double bytes = static_cast<double>(decode ? tokens * (traffic.weights + batch * traffic.state) : 0);
    const double rate = static_cast<double>(tokens * batch) / seconds;
    // decode: read bandwidth; prefill: the weights' matrix products at two operations an element and token
    const double flops = 2.0 * static_cast<double>(traffic.weights / 2);
    const double share = decode ? bytes / seconds * 1e-9 / limits.read_gb_per_s
                                : rate * flops * 1e-9 / std::max(limits.f32_gflop_per_s, limits.bf16_gflop_per_s);
    runs.push_back({{"phase", phase},
                    {"tokens", tokens},
                    {"batch", batch},
                    {"tokens_per_s", rate},
                    {"ms", seconds * 1e3},
                    {"weight_bytes", traffic.weights},
                    {"state_bytes", traffic.state / 2 * batch},
                    {"gb_per_s", bytes / seconds * 1e-9},
                    {"share_of_limit", share}});
    if (!options.json)
      fmt::print("{:8} {:7} tokens x {:3}  {:10.1f} tokens/s  {:9.2f} ms  {:5.1f} % of the limit\n", phase, tokens,
                 batch, rate, seconds * 1e3, share * 100);
  };
  if (!options.json)
    fmt::print("{}, {} threads, {}: reads {:.1f} GB/s, multiplies {:.0f} GFLOP/s (f32), {:.0f} (bf16 weights)\n",
               processor_name(), threads, model.model().backend().name(), limits.read_gb_per_s, limits.f32_gflop_per_s,
               limits.bf16_gflop_per_s);
  for (const std::int64_t batch : batches) {
    Mamba2Cache cache = model.make_cache(batch);
    time_prefill(model, cache, 16, batch);
    for (const std::int64_t tokens : prompts) {
      std::vector<double> times;
      for (int i = 0; i < repeat; ++i) times.push_back(time_prefill(model, cache, tokens, batch));
      add("prefill", tokens, batch, median(times));
    }
    std::vector<double> times;
    for (int i = 0; i < repeat && generate > 0; ++i) times.push_back(time_decode(model, cache, generate, batch));
    if (!times.empty()) add("decode", generate, batch, median(times));
  }
  if (options.json)
    print_json({{"machine",
                 {{"cpu", processor_name()},
                  {"isa", cpu::name(cpu::choose_isa())},
                  {"device", model.model().backend().name()},
                  {"threads", threads},
                  {"read_gb_per_s", limits.read_gb_per_s},
                  {"gemm_gflop_per_s", {{"f32", limits.f32_gflop_per_s}, {"bf16", limits.bf16_gflop_per_s}}}}},
                {"runs", runs}});
}

}  // namespace

void add_bench(CLI::App& app) {
  auto state = std::make_shared<BenchCommand>();
  CLI::App* command = app.add_subcommand("bench", "Time prefill and decode beside the machine's own limits");
  command->add_option("--shape", state->shape, "Random weights of a published size instead of a model");
  command->add_option("--prompt", state->prompts, "Tokens to prefill")->delimiter(',')->check(CLI::Range(1, 1 << 24));
  command->add_option("--batch", state->batches, "Sequences side by side")->delimiter(',')->check(CLI::Range(1, 4096));
  command->add_option("--generate", state->generate, "Tokens to decode")->check(CLI::Range(0, 1 << 24));
  command->add_option("--repeat", state->repeat, "Runs; the median counts")->check(CLI::Range(1, 1000));
  add_model_options(*command, state->options);
  command->callback([state] { state->run(); });
}

}  // namespace mamba2::app
