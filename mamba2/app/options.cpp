#include "mamba2/app/options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "mamba2/base/build_info.h"
#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/log.h"

namespace mamba2::app {

std::string ModelOptions::default_model() {
  std::error_code unknown;
  const std::filesystem::path binary = std::filesystem::read_symlink("/proc/self/exe", unknown);
  const std::string beside = (binary.parent_path() / data_directory_from_binary).lexically_normal().string();
  for (const std::string& data : {beside, std::string(installed_data_directory), std::string(source_directory)}) {
    const std::string model = join_path(data, "models/classics-5m");
    if (directory_exists(model)) return model;
  }
  fail("--model is missing, and the model that ships with the program was not found in {}, {} or {}", beside,
       installed_data_directory, source_directory);
}

void add_model_options(CLI::App& command, ModelOptions& options) {
  LoadOptions& load = options.load;
  command.add_option("--model,-m", options.model, "A folder, a file, or a Hub name ORG/NAME[@REVISION]");
  command.add_option("--tokenizer", options.tokenizer, "A tokenizer file or a folder that holds one");
  command.add_option("--device", load.device, "Where to compute")
      ->check(CLI::IsMember({"auto", "reference", "cpu", "cuda"}))
      ->capture_default_str();
  command
      .add_option("--dtype", load.dtype, "What the weights are held as: auto, f32, bf16, f16, q8_0, q4_0, q4_k, q6_k")
      ->capture_default_str();
  command.add_option("--state-dtype", load.state_dtype, "What the state is held as: f32, bf16")->capture_default_str();
  command.add_option("--threads,-t", load.threads, "Threads; 0: one a core")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command.add_option("--gated-norm", load.gated_norm, "The norm before out_proj when there are several groups")
      ->check(CLI::IsMember({"auto", "grouped", "ungrouped"}))
      ->capture_default_str();
  command.add_flag("--deterministic", load.deterministic, "Equal bits whatever the batch and the split of a prompt");
  command
      .add_option_function<std::string>(
          "--log-level", [](const std::string& level) { set_log_level(parse_log_level(level)); },
          "debug, info, warning, error or off")
      ->check(CLI::IsMember({"debug", "info", "warning", "error", "off"}));
  command.add_flag("--json", options.json, "Print JSON and nothing else on stdout");
}

std::unique_ptr<const Tokenizer> load_tokenizer(const ModelOptions& options, const std::string& model_folder) {
  return Tokenizer::from_pretrained(options.tokenizer.empty() ? model_folder : options.tokenizer);
}

void print_json(const Json& json) {
  const std::string line = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fflush(stdout);
}

std::string read_stdin() {
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

}  // namespace mamba2::app
