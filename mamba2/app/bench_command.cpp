#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>

#include "mamba2/app/commands.h"
#include "mamba2/app/interrupt.h"
#include "mamba2/app/machine.h"
#include "mamba2/app/model_cost.h"
#include "mamba2/app/options.h"
#include "mamba2/app/random_model.h"
#include "mamba2/base/error.h"
#include "mamba2/base/parallel.h"
#include "mamba2/cpu/isa.h"
#include "mamba2/cuda/cuda_backend.h"
#include "mamba2/generate/device_choice.h"
#include "mamba2/generate/engine.h"
#include "mamba2/generate/sampler.h"

namespace mamba2::app {
namespace {

struct BenchCommand {
  ModelOptions options;
  std::string shape;
  std::vector<std::int64_t> prompts{512}, batches{1}, pieces{0};
  std::int64_t generate = 64;
  bool engine = false;
  int repeat = 3;

  void run();

 private:
  Mamba2ForCausalLM open_model() const;
  std::vector<BenchRun> planned_runs() const;
};

/// Tokens that a sequence has before decoding is timed.
constexpr std::int64_t tokens_before_decode = 16;

/// Feeds sequences and takes the time.
class Stopwatch {
 public:
  Stopwatch(Mamba2ForCausalLM& model, std::int64_t slots) : model_(model), slots_(slots) {}

  double seconds_of(const BenchRun& run) {
    if (run.phase == BenchPhase::engine) return through_engine(run.tokens, run.batch);
    if (!cache_) cache_ = model_.make_cache(slots_);
    cache_->reset();
    if (run.phase == BenchPhase::prefill) return prefill(run.tokens, run.batch, run.piece);
    prefill(tokens_before_decode, run.batch, run.piece);
    return decode(run.tokens, run.batch);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

  std::vector<std::int32_t> prompt_of(std::int64_t tokens) const {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens));
    for (std::size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<std::int32_t>(i * 7919 % static_cast<std::size_t>(model_.config().vocab_size));
    return ids;
  }

  double prefill(std::int64_t tokens, std::int64_t batch, std::int64_t piece) {
    const std::vector<std::int32_t> ids = prompt_of(tokens);
    inputs_.clear();
    for (std::int64_t b = 0; b < batch; ++b) inputs_.push_back({.input_ids = ids, .slot = b});
    const auto start = Clock::now();
    model_.forward(inputs_, *cache_, {.piece_tokens = piece}, output_);
    return since(start);
  }

  /// Greedily, since a step ends with its token.
  double decode(std::int64_t steps, std::int64_t batch) {
    ids_.assign(static_cast<std::size_t>(batch), 1);
    inputs_.clear();
    for (std::size_t b = 0; b < ids_.size(); ++b)
      inputs_.push_back({.input_ids = std::span(ids_).subspan(b, 1), .slot = static_cast<std::int64_t>(b)});
    const auto start = Clock::now();
    if (model_.model().backend().chooses_tokens())
      decode_on_device(steps);
    else
      decode_on_host(steps);
    return since(start);
  }

  void decode_on_host(std::int64_t steps) {
    const auto vocab_size = static_cast<std::size_t>(model_.config().vocab_size);
    for (std::int64_t step = 0; step < steps; ++step) {
      model_.forward(inputs_, *cache_, {}, output_);
      for (std::size_t b = 0; b < ids_.size(); ++b)
        ids_[b] = argmax(output_.logits.span<const float>().subspan(b * vocab_size, vocab_size));
      check_interrupt();
    }
  }

  /// The tokens of a step are read while the next one is under way.
  void decode_on_device(std::int64_t steps) {
    const TokenRequest greedy;
    for (SequenceInput& input : inputs_) input.next = &greedy;
    for (std::int64_t step = 0; step < steps; ++step) {
      model_.start(inputs_, *cache_, output_);
      if (step == 0)
        ids_.assign(ids_.size(), chosen_token);
      else
        read_tokens();
    }
    read_tokens();
  }

  void read_tokens() {
    model_.finish(tokens_);
    for (const std::int32_t token : tokens_) checked_token(token);
    check_interrupt();
  }

  /// From the first request to the last token.
  double through_engine(std::int64_t tokens, std::int64_t batch) {
    cache_.reset();  // the engine has one of its own
    Engine engine(model_, {.slots = batch});
    std::exception_ptr error;
    const auto start = Clock::now();
    for (std::int64_t b = 0; b < batch; ++b) {
      Request request;
      request.prompt_ids = prompt_of(tokens_before_decode);
      request.config.max_new_tokens = tokens;
      request.on_end = [&error](const SequenceEnd& end) { error = error ? error : end.error; };
      engine.submit(std::move(request));
    }
    while (engine.step()) check_interrupt();
    if (error) std::rethrow_exception(error);
    return since(start);
  }

  Mamba2ForCausalLM& model_;
  std::int64_t slots_;
  std::optional<Mamba2Cache> cache_;
  std::vector<SequenceInput> inputs_;
  std::vector<std::int32_t> ids_, tokens_;
  ForwardOutput output_;
};

/// Medians of what was measured.  On the host the limits of the machine and the runs take turns, so that a machine
/// whose speed drifts gives each its share of every phase.
struct Measured {
  MachineLimits limits;
  std::vector<double> seconds;  // one a run
};

Measured measure(Mamba2ForCausalLM& model, std::span<const BenchRun> runs, int threads, int repeat) {
  std::int64_t slots = 1;
  for (const BenchRun& run : runs) slots = std::max(slots, run.batch);
  Stopwatch stopwatch(model, slots);
  std::vector<std::vector<double>> times(runs.size());
  std::vector<double> read, f32, bf16, s8;
  Backend& backend = model.model().backend();
  const bool on_host = backend.device().kind == DeviceKind::host;
  auto measure_machine = [&] {
    const MachineLimits limits = measure_limits(backend, threads);
    read.push_back(limits.read_gb_per_s);
    f32.push_back(limits.f32_gflop_per_s);
    bf16.push_back(limits.bf16_gflop_per_s);
    s8.push_back(limits.s8_gflop_per_s);
  };
  if (!on_host) measure_machine();
  // A device takes memory and plans its products for each shape the first time.
  for (const BenchRun& run : runs)
    stopwatch.seconds_of(
        {run.phase, on_host ? std::min<std::int64_t>(run.tokens, 2) : run.tokens, run.batch, run.piece});
  for (int i = 0; i < repeat; ++i) {
    if (on_host) measure_machine();
    for (std::size_t r = 0; r < runs.size(); ++r) {
      check_interrupt();
      times[r].push_back(stopwatch.seconds_of(runs[r]));
    }
  }
  Measured measured{.limits = {median(read), median(f32), median(bf16), median(s8)}, .seconds = {}};
  for (std::vector<double>& of_run : times) measured.seconds.push_back(median(std::move(of_run)));
  return measured;
}

Json json_of(const BenchRun& run, const RunCost& cost, double seconds, double share) {
  constexpr const char* names[] = {"prefill", "decode", "engine"};
  Json json = {{"phase", names[static_cast<std::size_t>(run.phase)]},
               {"tokens", run.tokens},
               {"batch", run.batch},
               {"tokens_per_s", static_cast<double>(run.tokens * run.batch) / seconds},
               {"ms", seconds * 1e3},
               {"weight_bytes", cost.weight_bytes},
               {"state_bytes", cost.state_bytes},
               {"gb_per_s", cost.total_bytes / seconds * 1e-9},
               {"share_of_limit", share}};
  if (run.piece > 0) json["piece"] = run.piece;
  return json;
}

Json json_of(const MachineLimits& limits, int threads) {
  return {{"cpu", processor_name()},
          {"isa", cpu::name(cpu::choose_isa())},
          {"threads", threads},
          {"read_gb_per_s", limits.read_gb_per_s},
          {"gemm_gflop_per_s",
           {{"f32", limits.f32_gflop_per_s}, {"bf16", limits.bf16_gflop_per_s}, {"s8", limits.s8_gflop_per_s}}}};
}

/// The same for people.
void print_table(const Json& machine, std::string_view device, const Json& runs) {
  const Json& rates = machine["gemm_gflop_per_s"];
  if (machine.contains("gpu")) print(machine["gpu"].get<std::string>() + "\n");
  print(fmt::format("{}, {}, {} threads, device {}\n", machine["cpu"].get<std::string>(),
                    machine["isa"].get<std::string>(), machine["threads"].get<int>(), device));
  print(
      fmt::format("reads {:.1f} GB/s; multiplies {:.0f} (f32), {:.0f} (bf16 weights), {:.0f} (q8_0 weights) GFLOP/s\n",
                  machine["read_gb_per_s"].get<double>(), rates["f32"].get<double>(), rates["bf16"].get<double>(),
                  rates["s8"].get<double>()));
  print(fmt::format("{:8} {:>7} {:>6} {:>12} {:>11} {:>8} {:>13}\n", "phase", "tokens", "batch", "tokens/s", "ms",
                    "GB/s", "of the limit"));
  for (const Json& run : runs) {
    const std::string piece =
        run.contains("piece") ? fmt::format("  in pieces of {}", run["piece"].get<std::int64_t>()) : "";
    print(fmt::format("{:8} {:7} {:6} {:12.1f} {:11.2f} {:8.1f} {:11.1f} %{}\n", run["phase"].get<std::string>(),
                      run["tokens"].get<std::int64_t>(), run["batch"].get<std::int64_t>(),
                      run["tokens_per_s"].get<double>(), run["ms"].get<double>(), run["gb_per_s"].get<double>(),
                      run["share_of_limit"].get<double>() * 100, piece));
  }
}

Mamba2ForCausalLM BenchCommand::open_model() const {
  if (shape.empty()) return Mamba2ForCausalLM::from_pretrained(options.model_path(), options.load);
  const Mamba2Config config = config_of_shape(shape);
  return Mamba2ForCausalLM(Mamba2Model(config, random_weights(config), options.load));
}

std::vector<BenchRun> BenchCommand::planned_runs() const {
  std::vector<BenchRun> runs;
  for (const std::int64_t batch : batches) {
    for (const std::int64_t tokens : prompts)
      for (const std::int64_t piece : pieces)
        runs.push_back({.phase = BenchPhase::prefill, .tokens = tokens, .batch = batch, .piece = piece});
    if (generate > 0) runs.push_back({.phase = BenchPhase::decode, .tokens = generate, .batch = batch});
    if (generate > 0 && engine) runs.push_back({.phase = BenchPhase::engine, .tokens = generate, .batch = batch});
  }
  return runs;
}

void BenchCommand::run() {
  catch_interrupts();
  Mamba2ForCausalLM model = open_model();
  const int threads = options.load.threads > 0 ? options.load.threads : available_processors();
  const std::vector<BenchRun> runs = planned_runs();
  const Measured measured = measure(model, runs, threads, repeat);

  const ModelCost model_cost = cost_of(model);
  Json rows = Json::array();
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const RunCost cost = cost_of(runs[r], model_cost, runs[r].decodes() ? tokens_before_decode : 0);
    const double share = limit_seconds(cost, model_cost.matrix_dtype, measured.limits) / measured.seconds[r];
    rows.push_back(json_of(runs[r], cost, measured.seconds[r], share));
  }
  Json machine = json_of(measured.limits, threads);
  if (model.model().backend().device().kind == DeviceKind::cuda) machine["gpu"] = cuda::describe().gpu;
  if (options.json)
    print_json({{"machine", machine}, {"runs", rows}});
  else
    print_table(machine, model.model().backend().name(), rows);
}

}  // namespace

void add_bench(CLI::App& app) {
  auto state = std::make_shared<BenchCommand>();
  CLI::App* command = app.add_subcommand("bench", "Time prefill and decode beside the machine's own limits");
  command->add_option("--shape", state->shape, "Random weights of a published size instead of a model")
      ->check([](const std::string& shape) -> std::string {
        try {
          config_of_shape(shape);
          return "";
        } catch (const Error& e) {
          return e.what();
        }
      });
  command->add_option("--prompt", state->prompts, "Tokens to prefill")->delimiter(',')->check(CLI::Range(1, 1 << 24));
  command->add_option("--piece", state->pieces, "Tokens that go through the layers at a time; 0: the device's choice")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 24));
  command->add_option("--batch", state->batches, "Sequences side by side")->delimiter(',')->check(CLI::Range(1, 4096));
  command->add_option("--generate", state->generate, "Tokens to decode")->check(CLI::Range(0, 1 << 24));
  command->add_flag("--engine", state->engine, "Decode as requests to the engine of continuous batching too");
  command->add_option("--repeat", state->repeat, "Runs; the median counts")->check(CLI::Range(1, 1000));
  add_model_options(*command, state->options);
  command->footer(
      "A run's limit is the longer of the times in which this machine could read its bytes and do its matrix "
      "products.\n"
      "Bytes: every weight once a step (decode) or once (prefill), the state read and written. A model that fits a\n"
      "processor's cache can be past the limit, which is that of memory. Of a model that is split over ranks, bytes\n"
      "and limit are the first one's.");
  command->callback([state] { state->run(); });
}

}  // namespace mamba2::app
