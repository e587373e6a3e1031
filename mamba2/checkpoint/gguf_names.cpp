#include <array>
#include <utility>

#include "mamba2/checkpoint/gguf.h"

namespace mamba2 {
namespace {

using Names = std::pair<std::string_view, std::string_view>;  // GGUF's, Hugging Face's

constexpr std::array model_names{Names{"token_embd.weight", "backbone.embeddings.weight"},
                                 Names{"output_norm.weight", "backbone.norm_f.weight"},
                                 Names{"output.weight", "lm_head.weight"}};

/// After "blk.N." and "backbone.layers.N.".
constexpr std::array layer_names{Names{"attn_norm.weight", "norm.weight"},
                                 Names{"ssm_in.weight", "mixer.in_proj.weight"},
                                 Names{"ssm_conv1d.weight", "mixer.conv1d.weight"},
                                 Names{"ssm_conv1d.bias", "mixer.conv1d.bias"},
                                 Names{"ssm_dt.bias", "mixer.dt_bias"},
                                 Names{"ssm_a", "mixer.A_log"},
                                 Names{"ssm_d", "mixer.D"},
                                 Names{"ssm_norm.weight", "mixer.norm.weight"},
                                 Names{"ssm_out.weight", "mixer.out_proj.weight"}};

constexpr std::string_view gguf_layer = "blk.", our_layer = "backbone.layers.";

/// Splits PREFIX N . REST; empty parts where the name is no such.
std::pair<std::string_view, std::string_view> split_layer(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return {};
  name.remove_prefix(prefix.size());
  const std::size_t digits = name.find_first_not_of("0123456789");
  if (digits == 0 || digits == std::string_view::npos || name[digits] != '.') return {};
  return {name.substr(0, digits), name.substr(digits + 1)};
}

}  // namespace

std::string name_from_gguf(std::string_view name) {
  for (const auto& [theirs, ours] : model_names)
    if (name == theirs) return std::string(ours);
  const auto [layer, rest] = split_layer(name, gguf_layer);
  for (const auto& [theirs, ours] : layer_names)
    if (!layer.empty() && rest == theirs) return std::string(our_layer).append(layer).append(".").append(ours);
  return std::string(name);
}

std::string name_to_gguf(std::string_view name) {
  for (const auto& [theirs, ours] : model_names)
    if (name == ours) return std::string(theirs);
  const auto [layer, rest] = split_layer(name, our_layer);
  for (const auto& [theirs, ours] : layer_names)
    if (!layer.empty() && rest == ours) return std::string(gguf_layer).append(layer).append(".").append(theirs);
  return {};
}

}  // namespace mamba2
