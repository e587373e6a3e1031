#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "mamba2/app/commands.h"
#include "mamba2/app/options.h"
#include "mamba2/base/error.h"
#include "mamba2/base/progress.h"
#include "mamba2/model/load.h"
#include "mamba2/model/locate.h"
#include "mamba2/model/save.h"

namespace mamba2::app {
namespace {

struct InfoCommand {
  ModelOptions options;
  bool tensors = false;

  void run();
};

/// Of the state in f32; keys and values of attention layers come on top, token by token.
std::int64_t state_bytes(const Mamba2Config& c) {
  std::int64_t elements = 0;
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i)
    elements += c.is_attention_layer(i)
                    ? c.attention_qkv_size() * std::max<std::int64_t>(c.attention_conv_kernel - 1, 0)
                    : c.conv_dim() * (c.conv_kernel - 1) + c.intermediate_size() * c.state_size;
  return elements * 4;
}

std::int64_t cached_bytes_per_token(const Mamba2Config& c) {
  return 4 * 2 * static_cast<std::int64_t>(c.attention_layers_idx.size()) * c.num_key_value_heads *
         c.attention_head_dim;
}

void InfoCommand::run() {
  const ModelFiles files = locate_model(options.model_path());
  Mamba2Config config = files.read_config();
  const std::unique_ptr<TensorSource> source = open_tensors(files.weights);
  adjust_to_tensors(config, CanonicalTensors(*source));
  std::int64_t parameters = 0;
  std::uint64_t bytes = 0;
  Json list = Json::array();
  for (const TensorInfo& tensor : source->tensors()) {
    parameters += tensor.shape.elements();
    bytes += tensor.bytes;
    list.push_back({{"name", tensor.name},
                    {"dtype", name(tensor.dtype)},
                    {"shape", std::vector<std::int64_t>(tensor.shape.extents().begin(), tensor.shape.extents().end())},
                    {"file", tensor.file}});
  }
  const Json config_json = config_to_json(config, dialect_to_save(config), config.dtype_name);
  if (options.json) {
    print_json({{"dialect", name(config.dialect)},
                {"format", source->format()},
                {"architecture", config.architecture},
                {"config", config_json},
                {"parameters", parameters},
                {"weight_bytes", bytes},
                {"state_bytes_per_sequence", state_bytes(config)},
                {"cache_bytes_per_token", cached_bytes_per_token(config)},
                {"tensors", list}});
    return;
  }
  fmt::print("{}\n  {} ({} dialect, {})\n", options.model_path(), config.architecture, name(config.dialect),
             source->format());
  fmt::print("  {} layers of width {}, {} heads of {}, state {}, {} group(s), vocabulary {}\n",
             config.num_hidden_layers, config.hidden_size, config.num_heads, config.head_dim, config.state_size,
             config.n_groups, config.vocab_size);
  if (config.has_attention())
    fmt::print("  {} attention layers of {} heads of {}\n", config.attention_layers_idx.size(),
               config.num_attention_heads, config.attention_head_dim);
  fmt::print("  {} parameters, {} of weights, {} of state a sequence\n", parameters, format_bytes(bytes),
             format_bytes(static_cast<std::uint64_t>(state_bytes(config))));
  if (!tensors) return;
  for (const TensorInfo& tensor : source->tensors())
    fmt::print("  {:60} {:5} {}\n", tensor.name, name(tensor.dtype), to_string(tensor.shape));
}

}  // namespace

void add_info(CLI::App& app) {
  auto state = std::make_shared<InfoCommand>();
  CLI::App* command = app.add_subcommand("info", "What a model is, without loading it");
  command->add_flag("--tensors", state->tensors, "List the tensors; --json does always")->group("Output");
  add_model_options(*command, state->options);
  command->callback([state] { state->run(); });
}

}  // namespace mamba2::app
