#include "mamba2/app/options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "mamba2/base/build_info.h"
#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/log.h"
#include "mamba2/tensor/quantized.h"

namespace mamba2::app {

std::string ModelOptions::default_model() {
  std::error_code unknown;
  const std::filesystem::path binary = std::filesystem::read_symlink("/proc/self/exe", unknown);
  const std::string beside = (binary.parent_path() / data_directory_from_binary).lexically_normal().string();
  for (const std::string& data : {beside, std::string(installed_data_directory), std::string(source_directory)}) {
    std::string model = join_path(data, "models/classics-5m");
    if (directory_exists(model)) return model;
  }
  fail("--model is missing, and the model that ships with the program was not found in {}, {} or {}", beside,
       installed_data_directory, source_directory);
}

namespace {

constexpr int most_ranks = 64;

/// What CLI11 asks of a check: what is wrong, empty where nothing is.
std::string check_dtype(const std::string& text) {
  const std::optional<DType> dtype = parse_dtype(text);
  if (text == "auto" || (dtype && (is_floating(*dtype) || can_quantize(*dtype)))) return "";
  return fmt::format("dtype is '{}', expected auto, f32, bf16, f16, q8_0, q4_0, q4_k or q6_k", printable(text, 40));
}

}  // namespace

void add_model_options(CLI::App& command, ModelOptions& options) {
  LoadOptions& load = options.load;
  command.option_defaults()->group("Model");
  command
      .add_option("--model,-m", options.model,
                  "A folder, a file, or a Hub name ORG/NAME[@REVISION]; none: the model that ships with mamba2")
      ->check([](const std::string& path) { return path.empty() ? "is empty" : ""; });
  command.add_option("--tokenizer", options.tokenizer, "A tokenizer file or a folder that holds one");
  command
      .add_option("--dtype", load.dtype,
                  "What the weights are held as: auto (as stored), f32, bf16, f16, q8_0, q4_0, q4_k, q6_k")
      ->check(check_dtype)
      ->capture_default_str();
  command.add_option("--state-dtype", load.state_dtype, "What the state is held as")
      ->check(CLI::IsMember({"f32", "bf16", "bf16-stochastic"}))
      ->capture_default_str();
  command.add_option("--gated-norm", load.gated_norm, "The norm before out_proj when there are several groups")
      ->check(CLI::IsMember({"auto", "grouped", "ungrouped"}))
      ->capture_default_str();
  command.option_defaults()->group("Machine");
  command.add_option("--device", load.device, "Where to compute")
      ->check(CLI::IsMember({"auto", "reference", "cpu", "cuda"}))
      ->capture_default_str();
  command.add_option("--threads,-t", load.threads, "Threads; 0: one a core")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command
      .add_option("--tensor-parallel", load.tensor_parallel,
                  "Split the model over so many GPUs of this machine; on cpu and reference, over groups of threads")
      ->check(CLI::Range(1, most_ranks))
      ->capture_default_str();
  command.add_flag(
      "--deterministic", load.deterministic,
      "cpu: equal bits whatever batch and split of a prompt; cuda: all in f32, equal bits for up to 8 in decode");
  command.option_defaults()->group("Output");
  command.add_flag("--json", options.json, "Print JSON and nothing else on stdout");
  command
      .add_option_function<std::string>(
          "--log-level", [](const std::string& level) { set_log_level(parse_log_level(level)); },
          "What to tell on stderr")
      ->check(CLI::IsMember({"debug", "info", "warning", "error", "off"}))
      ->default_str("warning");
}

void take_texts(CLI::Option& positional) {
  constexpr int most = 1 << 20;  // an argument list has no room for more
  positional.multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  positional.expected(most, CLI::detail::expected_max_vector_size)->allow_extra_args(false);
}

std::unique_ptr<const Tokenizer> load_tokenizer(const ModelOptions& options, const std::string& model_folder) {
  return Tokenizer::from_pretrained(options.tokenizer.empty() ? model_folder : options.tokenizer);
}

void print(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  require(written, "standard output can't be written: {}", error_text(errno));
}

void print_json(const Json& json) {
  // ASCII alone: some readers end a line at U+2028 or U+0085
  print(json.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n");
}

std::string read_stdin() {
  const bool on_terminal = isatty(STDIN_FILENO) != 0;
  if (on_terminal) std::fputs("reading standard input; Ctrl-D ends it\n", stderr);
  std::string text;
  char buffer[1 << 16];
  while (const std::size_t bytes = std::fread(buffer, 1, sizeof(buffer), stdin)) text.append(buffer, bytes);
  require(std::ferror(stdin) == 0, "standard input can't be read: {}", error_text(errno));
  if (on_terminal && text.ends_with('\n')) text.pop_back();
  return text;
}

}  // namespace mamba2::app
