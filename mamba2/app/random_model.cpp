#include "mamba2/app/random_model.h"

#include <bit>
#include <cmath>

#include "mamba2/base/error.h"
#include "mamba2/base/parallel.h"
#include "mamba2/base/random.h"
#include "mamba2/model/weights.h"

namespace mamba2::app {
namespace {

struct PublishedShape {
  const char* name;
  std::int64_t hidden_size, num_hidden_layers, vocab_size, n_groups;
  bool tied;
};

constexpr PublishedShape shapes[] = {{"130m", 768, 24, 50288, 1, true},  {"370m", 1024, 48, 50288, 1, true},
                                     {"780m", 1536, 48, 50288, 1, true}, {"1.3b", 2048, 48, 50288, 1, true},
                                     {"2.7b", 2560, 64, 50288, 1, true}, {"codestral-7b", 4096, 64, 32768, 8, false}};

class MemoryTensors : public TensorSource {
 public:
  MemoryTensors(std::vector<TensorInfo> tensors, std::vector<HostTensor> values)
      : TensorSource("random weights", std::move(tensors)), values_(std::move(values)) {}
  std::string_view format() const override { return "random"; }

 protected:
  Tensor read_at(std::size_t index) const override { return values_[index].view(); }

 private:
  std::vector<HostTensor> values_;
};

/// Uniform bf16 in (-scale, scale) from 16 random bits an element; a multiplicative generator, since a quality one
/// would take minutes for billions of weights.
void fill_uniform(const HostTensor& tensor, float scale, std::uint64_t seed) {
  std::uint64_t state = seed * 2 + 1;
  for (bf16& value : tensor.span<bf16>()) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    value = to_bf16((static_cast<float>(static_cast<std::int32_t>(state >> 32)) * 0x1p-31F) * scale);
  }
}

void fill(const std::string& name, const HostTensor& tensor, std::uint64_t seed) {
  Random random(seed);
  if (name.ends_with("A_log")) {
    for (bf16& value : tensor.span<bf16>()) value = to_bf16(static_cast<float>(std::log(1 + 15 * random.uniform())));
  } else if (name.ends_with("dt_bias")) {
    for (bf16& value : tensor.span<bf16>()) value = to_bf16(static_cast<float>(-4.5 + 2 * random.uniform()));
  } else if (name.ends_with("norm.weight") || name.ends_with("norm_f.weight") || name.ends_with("D")) {
    for (bf16& value : tensor.span<bf16>()) value = to_bf16(1.0F);
  } else {
    const auto columns = static_cast<float>(tensor.view().size(-1));
    fill_uniform(tensor, std::sqrt(3.0F / columns), seed);
  }
}

}  // namespace

Mamba2Config config_of_shape(const std::string& shape) {
  for (const PublishedShape& published : shapes) {
    if (published.name != shape) continue;
    Mamba2Config config;
    config.hidden_size = published.hidden_size;
    config.num_hidden_layers = published.num_hidden_layers;
    config.vocab_size = published.vocab_size;
    config.n_groups = published.n_groups;
    config.num_heads = 2 * published.hidden_size / config.head_dim;
    config.tie_word_embeddings = published.tied;
    return config;
  }
  fail("shape is '{}', expected 130m, 370m, 780m, 1.3b, 2.7b or codestral-7b", printable(shape));
}

std::unique_ptr<TensorSource> random_weights(const Mamba2Config& config) {
  ModelWeights unused;
  std::vector<TensorInfo> infos;
  std::vector<HostTensor> values;
  auto add = [&](const std::string& name, const Shape& shape) {
    values.emplace_back(DType::bf16, shape);
    infos.push_back(
        {.name = name, .dtype = DType::bf16, .shape = shape, .file = {}, .bytes = values.back().view().bytes()});
  };
  for (const TensorSlot& slot : tensor_table(config, unused)) add(slot.name, slot.shape);
  if (!config.tie_word_embeddings) add("lm_head.weight", {config.vocab_size, config.hidden_size});
  for_pieces(std::ssize(values), 0, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      fill(infos[i].name, values[i], i + 1);
  });
  return std::make_unique<MemoryTensors>(std::move(infos), std::move(values));
}

}  // namespace mamba2::app
