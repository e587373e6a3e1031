#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "mamba2/app/commands.h"
#include "mamba2/app/interrupt.h"
#include "mamba2/app/options.h"
#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/progress.h"
#include "mamba2/model/load.h"
#include "mamba2/model/locate.h"
#include "mamba2/model/save.h"

namespace mamba2::app {
namespace {

namespace fs = std::filesystem;

struct ConvertCommand {
  ModelOptions options;
  std::string in, out, format = "safetensors";

  void run();
};

/// What a model's folder holds beside weights and config.
constexpr const char* companions[] = {"generation_config.json", "tokenizer.json",     "tokenizer_config.json",
                                      "tokenizer.model",        "tokenizer.model.v3", "special_tokens_map.json",
                                      "added_tokens.json",      "chat_template.jinja"};

void copy_companions(const std::string& from, const std::string& to) {
  for (const char* name : companions) {
    const std::string path = join_path(from, name);
    if (!file_exists(path)) continue;
    const MappedFile source(path);
    AtomicFile copy(join_path(to, name));
    copy.write(source.bytes());
    copy.commit();
  }
}

void ConvertCommand::run() {
  require(format == "safetensors", "format is '{}', only safetensors can be written", format);
  std::optional<DType> dtype;
  if (options.load.dtype != "auto") {
    dtype = parse_dtype(options.load.dtype);
    require(dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16,
            "dtype is '{}', expected auto, f32, bf16 or f16", printable(options.load.dtype));
  }
  const ModelFiles files = locate_model(in);
  const std::unique_ptr<TensorSource> source = open_tensors(files.weights);
  Mamba2Config config = files.read_config();
  adjust_to_tensors(config, CanonicalTensors(*source));

  // A new folder is filled under another name and then renamed: complete or absent, whatever happens.
  const fs::path target = fs::path(out).lexically_normal();
  std::error_code code;
  const bool exists = fs::symlink_status(target, code).type() != fs::file_type::not_found;
  require(!exists || fs::is_directory(target, code), "{}: is there and no folder", out);
  require(!exists || !fs::equivalent(target, files.folder, code), "{}: is the model that is to be converted", out);
  std::string folder = target.has_filename() ? target.string() : target.parent_path().string();
  const std::string final_folder = folder;
  if (!exists) folder += fmt::format(".{}.partial", getpid());
  struct Removal {
    std::string path;
    ~Removal() {
      std::error_code ignored;
      if (!path.empty()) fs::remove_all(path, ignored);
    }
  } removal{exists ? "" : folder};
  catch_interrupts();
  make_directories(folder);
  ProgressBar bar("convert", 0, ProgressUnit::bytes);
  save_checkpoint(config, *source, folder, dtype, [&](std::uint64_t done, std::uint64_t total) {
    bar.set_total(total);
    bar.update(done);
    check_interrupt();
  });
  copy_companions(files.folder, folder);
  if (!exists) {
    fs::rename(folder, final_folder, code);
    require(!code, "{}: can't be created: {}", out, code.message());
    removal.path.clear();
  }
}

}  // namespace

void add_convert(CLI::App& app) {
  auto state = std::make_shared<ConvertCommand>();
  CLI::App* command = app.add_subcommand("convert", "Write a model of any supported format as another");
  command->add_option("in", state->in, "A folder, a file, or a Hub name")->required();
  command->add_option("out", state->out, "The folder to write")->required();
  command->option_defaults()->group("Output");
  command->add_option("--format", state->format, "safetensors")
      ->check(CLI::IsMember({"safetensors", "gguf"}))
      ->capture_default_str();
  add_model_options(*command, state->options);
  command->callback([state] { state->run(); });
}

}  // namespace mamba2::app
