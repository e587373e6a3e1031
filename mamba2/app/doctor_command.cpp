#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "mamba2/app/commands.h"
#include "mamba2/app/machine.h"
#include "mamba2/app/options.h"
#include "mamba2/base/build_info.h"
#include "mamba2/base/error.h"
#include "mamba2/cpu/isa.h"
#include "mamba2/cuda/cuda_backend.h"

namespace mamba2::app {
namespace {

struct DoctorCommand {
  ModelOptions options;

  void run();
};

/// Logits of every position of a fixed prompt.
HostTensor logits_on(const std::string& model_path, LoadOptions load, const std::string& device) {
  load.device = device;
  Mamba2ForCausalLM model = Mamba2ForCausalLM::from_pretrained(model_path, load);
  Mamba2Cache cache = model.make_cache(1);
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 64; ++i) ids.push_back(static_cast<std::int32_t>((i * 131) % model.config().vocab_size));
  const SequenceInput input{.input_ids = ids, .logits_to_keep = all_positions};
  return std::move(model.forward({&input, 1}, cache).logits);
}

struct Parity {
  double largest_difference = 0, largest_logit = 0;
};

Parity compare(const Tensor& got, const Tensor& want) {
  Parity parity;
  for (std::int64_t i = 0; i < want.elements(); ++i) {
    const double expected = element_as_double(want, i);
    parity.largest_difference = std::max(parity.largest_difference, std::abs(element_as_double(got, i) - expected));
    parity.largest_logit = std::max(parity.largest_logit, std::abs(expected));
  }
  return parity;
}

/// Of the largest logit.
double tolerance_of(std::string_view device, const LoadOptions& load) {
  const std::optional<DType> dtype = parse_dtype(load.dtype);
  const bool by_bytes = dtype.has_value() && is_quantized(*dtype);
  const bool as_bf16 = dtype.value_or(DType::bf16) == DType::bf16 && cpu::choose_isa() >= cpu::Isa::avx512_bf16;
  const bool on_gpu = device == "cuda", in_f32 = load.deterministic || dtype == DType::f32;
  // Inputs of products rounded to bf16 or to bytes, by up to 2^-9 to 2^-8 of themselves, through a shipped model's
  // layers
  if (device == "cpu" && (by_bytes || as_bf16)) return 0x1p-6;
  if (on_gpu && (by_bytes || !in_f32)) return 0x1p-6;
  // f32 sums of a few hundred terms through a few dozen layers; the golden tests hold the same bounds
  return on_gpu ? 5e-5 : 2e-5;
}

void DoctorCommand::run() {
  const cuda::Summary gpu = cuda::describe();
  std::vector<std::string> isas;
  for (const cpu::Isa isa : cpu::available_isas()) isas.emplace_back(cpu::name(isa));
  const std::string model_path = options.model_path();
  const std::unique_ptr<Backend> chosen = make_backend(
      {.device = options.load.device, .threads = options.load.threads, .deterministic = options.load.deterministic});
  const std::string device(chosen->name());
  const HostTensor got = logits_on(model_path, options.load, device);
  const HostTensor want = logits_on(model_path, options.load, "reference");
  const Parity parity = compare(got, want);
  const double tolerance = tolerance_of(device, options.load);
  const bool agrees = parity.largest_difference <= tolerance * parity.largest_logit;
  const Json json = {{"version", build_version},
                     {"processor", processor_name()},
                     {"instruction_sets", isas},
                     {"instruction_set", cpu::name(cpu::choose_isa())},
                     {"devices", {{"reference", true}, {"cpu", true}, {"cuda", gpu.usable}}},
                     {"gpu",
                      {{"name", gpu.gpu},
                       {"problem", gpu.problem},
                       {"library", gpu.blas},
                       {"count", gpu.gpus},
                       {"nccl", gpu.nccl},
                       {"tuned", gpu.tuned_shapes}}},
                     {"device", device},
                     {"parity",
                      {{"model", model_path},
                       {"largest_difference", parity.largest_difference},
                       {"largest_logit", parity.largest_logit},
                       {"tolerance", tolerance},
                       {"agrees", agrees}}}};
  if (options.json) {
    print_json(json);
  } else {
    fmt::print("mamba2 {} on {}\n", build_version, processor_name());
    fmt::print("instruction sets: {} (in use: {})\n", fmt::join(isas, ", "), cpu::name(cpu::choose_isa()));
    fmt::print("devices: reference, cpu{} (in use: {})\n", gpu.usable ? ", cuda" : "", device);
    if (gpu.usable)
      fmt::print("cuda: {}; {} GPU{}; {}; {}; kernels of their own for {}\n", gpu.gpu, gpu.gpus,
                 gpu.gpus == 1 ? "" : "s", gpu.blas, gpu.nccl, gpu.tuned_shapes);
    else
      fmt::print("no cuda: {}\n", gpu.problem);
    fmt::print("{} against the reference on {}: logits differ by {:.2g} at most, the largest is {:.3g}: {}\n", device,
               model_path, parity.largest_difference, parity.largest_logit, agrees ? "good" : "BAD");
  }
  require(agrees, "device '{}' differs from the reference by {} where the largest logit is {}", device,
          parity.largest_difference, parity.largest_logit);
}

}  // namespace

void add_doctor(CLI::App& app) {
  auto state = std::make_shared<DoctorCommand>();
  CLI::App* command =
      app.add_subcommand("doctor", "What this machine has, what is used, and whether it computes right");
  add_model_options(*command, state->options);
  command->callback([state] { state->run(); });
}

}  // namespace mamba2::app
