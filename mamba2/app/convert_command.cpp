#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "mamba2/app/commands.h"
#include "mamba2/app/interrupt.h"
#include "mamba2/app/options.h"
#include "mamba2/app/random_model.h"
#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/base/log.h"
#include "mamba2/base/progress.h"
#include "mamba2/model/load.h"
#include "mamba2/model/locate.h"
#include "mamba2/model/save.h"
#include "mamba2/model/save_gguf.h"
#include "mamba2/tensor/quantized.h"
#include "mamba2/tokenizer/gguf_export.h"
#include "mamba2/tokenizer/gguf_tokenizer.h"

namespace mamba2::app {
namespace {

namespace fs = std::filesystem;

/// What is converted.
struct Source {
  std::unique_ptr<TensorSource> tensors;
  Mamba2Config config;
  std::string folder;  ///< with the tokenizer; a GGUF file; empty where the weights are random
};

struct ConvertCommand {
  ModelOptions options;
  std::string in, out, format = "safetensors", shape;

  void run();

 private:
  std::optional<DType> dtype() const;
  Source open() const;
  void to_safetensors(const Source& source) const;
  void to_gguf(const Source& source) const;
};

/// What a model's folder holds beside weights and config.
constexpr const char* companions[] = {"generation_config.json", "tokenizer.json",     "tokenizer_config.json",
                                      "tokenizer.model",        "tokenizer.model.v3", "special_tokens_map.json",
                                      "added_tokens.json",      "chat_template.jinja"};

void write_companion(const std::string& folder, const std::string& name, std::string_view content) {
  AtomicFile file(join_path(folder, name));
  file.write(content);
  file.commit();
}

void copy_companions(const std::string& from, const std::string& to) {
  if (from.empty()) return;
  if (is_gguf_file(from)) {
    const MappedFile file(from);
    for (const auto& [name, content] : gguf_tokenizer_files(GgufMetadata(file.bytes(), from)))
      write_companion(to, name, content);
    return;
  }
  for (const char* name : companions)
    if (const std::string path = join_path(from, name); file_exists(path))
      write_companion(to, name, MappedFile(path).text());
}

/// Of the folder that a conversion fills, unless it is told to let go.
class Removal {
 public:
  explicit Removal(std::string path) : path_(std::move(path)) {}
  Removal(const Removal&) = delete;
  Removal& operator=(const Removal&) = delete;
  ~Removal() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  void release() { path_.clear(); }

 private:
  std::string path_;
};

std::optional<DType> ConvertCommand::dtype() const {
  const std::string& text = options.load.dtype;
  if (text == "auto") return std::nullopt;
  const std::optional<DType> dtype = parse_dtype(text);
  const bool is_plain = dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
  if (format == "gguf")
    require(is_plain || (dtype && can_quantize(*dtype)),
            "dtype is '{}', expected auto, f32, bf16, f16, q8_0, q4_0, q4_k or q6_k", printable(text));
  else
    require(is_plain, "dtype is '{}', expected auto, f32, bf16 or f16{}", printable(text),
            dtype && is_quantized(*dtype) ? "; --format gguf holds quantised weights" : "");
  return dtype;
}

Source ConvertCommand::open() const {
  if (!shape.empty()) {
    const Mamba2Config config = config_of_shape(shape);
    return {random_weights(config), config, options.tokenizer};
  }
  const ModelFiles files = locate_model(in);
  Source source{open_tensors(files.weights), files.read_config(), files.folder};
  adjust_to_tensors(source.config, CanonicalTensors(*source.tensors));
  std::error_code not_there;
  require(!fs::equivalent(out, files.folder, not_there), "{}: is the model that is to be converted", out);
  return source;
}

void ConvertCommand::to_safetensors(const Source& source) const {
  // A new folder is filled under another name and then renamed: complete or absent, whatever happens.
  const fs::path target = fs::path(out).lexically_normal();
  std::error_code code;
  const bool exists = fs::symlink_status(target, code).type() != fs::file_type::not_found;
  require(!exists || fs::is_directory(target, code), "{}: is there and no folder", out);
  std::string folder = target.has_filename() ? target.string() : target.parent_path().string();
  const std::string final_folder = folder;
  if (!exists) folder += fmt::format(".{}.partial", getpid());
  Removal removal(exists ? "" : folder);
  make_directories(folder);
  ProgressBar bar("convert", 0, ProgressUnit::bytes);
  save_checkpoint(source.config, *source.tensors, folder, dtype(), [&](std::uint64_t done, std::uint64_t total) {
    bar.set_total(total);
    bar.update(done);
    check_interrupt();
  });
  copy_companions(source.folder, folder);
  if (exists) return;
  fs::rename(folder, final_folder, code);
  require(!code, "{}: can't be created: {}", out, code.message());
  removal.release();
}

Json to_json(const SavedGgufTensor& tensor) {
  const auto extents = tensor.shape.extents();
  return {{"name", tensor.name},
          {"dtype", name(tensor.dtype)},
          {"stored", name(tensor.stored)},
          {"shape", std::vector<std::int64_t>(extents.begin(), extents.end())},
          {"rms", tensor.rms},
          {"rms_error", tensor.rms_error},
          {"max_error", tensor.max_error}};
}

/// The tensors whose values changed, and the whole.
void print_errors(const std::vector<SavedGgufTensor>& tensors, const std::string& out) {
  std::string text;
  std::uint64_t bytes = 0;
  for (const SavedGgufTensor& t : tensors) {
    bytes += bytes_for(t.dtype, t.shape.elements());
    if (t.rms_error == 0) continue;
    if (text.empty())
      text = fmt::format("{:28} {:5} {:18} {:>10} {:>10} {:>9}\n", "tensor", "dtype", "shape", "rms error", "max error",
                         "relative");
    text += fmt::format("{:28} {:5} {:18} {:10.3g} {:10.3g} {:8.4f} %\n", t.name, name(t.dtype), to_string(t.shape),
                        t.rms_error, t.max_error, t.rms > 0 ? 100 * t.rms_error / t.rms : 0);
  }
  print(text + fmt::format("{}: {} tensors, {}\n", out, tensors.size(), format_bytes(bytes)));
}

void ConvertCommand::to_gguf(const Source& source) const {
  require(!directory_exists(out), "{}: is a folder, expected the name of a GGUF file", out);
  const std::optional<DType> dtype = this->dtype();
  GgufMetadataBuilder metadata = config_to_gguf(source.config, dtype);
  const std::string tokenizer = options.tokenizer.empty() ? source.folder : options.tokenizer;
  if (tokenizer.empty())
    metadata.set_text("tokenizer.ggml.model", "no_vocab");
  else
    add_gguf_tokenizer(metadata, tokenizer, source.config.vocab_size);
  if (const fs::path parent = fs::path(out).parent_path(); !parent.empty()) make_directories(parent.string());
  ProgressBar bar("convert", 0, ProgressUnit::bytes);
  const auto progress = [&](std::uint64_t done, std::uint64_t total) {
    bar.set_total(total);
    bar.update(done);
    check_interrupt();
  };
  const auto tensors = save_gguf(source.config, *source.tensors, out, metadata,
                                 {.dtype = dtype, .threads = options.load.threads, .on_progress = progress});
  if (!options.json) return print_errors(tensors, out);
  Json list = Json::array();
  for (const SavedGgufTensor& tensor : tensors) list.push_back(to_json(tensor));
  print_json({{"out", out}, {"format", "gguf"}, {"tensors", std::move(list)}});
}

void ConvertCommand::run() {
  if (!shape.empty() && out.empty()) std::swap(in, out);
  if (out.empty()) throw CLI::RequiredError("out");
  if (in.empty() == shape.empty()) throw CLI::ExcludesError("in", "--shape");
  static_cast<void>(dtype());
  const Source source = open();
  catch_interrupts();
  if (format == "gguf")
    to_gguf(source);
  else
    to_safetensors(source);
}

}  // namespace

void add_convert(CLI::App& app) {
  auto state = std::make_shared<ConvertCommand>();
  CLI::App* command = app.add_subcommand("convert", "Write a model of any supported format as another");
  command->add_option("in", state->in, "A folder, a file, or a Hub name; none with --shape")->required();
  command->add_option("out", state->out, "The folder or, with --format gguf, the file to write");
  command->add_option("--shape", state->shape, "Random weights of a published size instead of IN: 130m, 370m, ...");
  command->option_defaults()->group("Output");
  command->add_option("--format", state->format, "safetensors (a folder) or gguf (a file)")
      ->check(CLI::IsMember({"safetensors", "gguf"}))
      ->capture_default_str();
  add_model_options(*command, state->options);
  command->callback([state] { state->run(); });
}

}  // namespace mamba2::app
