#include "mamba2/model/save_gguf.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <string_view>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/base/log.h"
#include "mamba2/base/parallel.h"
#include "mamba2/checkpoint/gguf.h"
#include "mamba2/checkpoint/gguf_writer.h"
#include "mamba2/model/held_dtype.h"
#include "mamba2/model/load.h"
#include "mamba2/model/weights.h"

namespace mamba2 {
namespace {

/// Converted and written at a time.
constexpr std::int64_t piece_bytes = 16 << 20;

/// A tensor of the model and what it becomes in the file.
struct Plan {
  TensorSlot slot;
  bool is_there = true;  ///< false: a bias that llama.cpp wants and the model is without, written as zeros
  TensorSpec spec;
};

Shape gguf_shape(const TensorSlot& slot, const Mamba2Config& config) {
  const std::string_view name = slot.name;
  if (name.ends_with(".A_log") || name.ends_with(".D")) return {config.num_heads, 1};
  if (name.ends_with("mixer.norm.weight")) return {config.n_groups, config.intermediate_size() / config.n_groups};
  if (name.ends_with("conv1d.weight")) return {config.conv_dim(), config.conv_kernel};
  return slot.shape;
}

/// Plain dtypes wider than f32 have no place in such a file.
DType gguf_dtype(const TensorSlot& slot, DType stored, std::optional<DType> wanted) {
  if (slot.matrix == nullptr) return DType::f32;
  const DType dtype = held_dtype(slot, stored, wanted);
  return dtype == DType::f64 ? DType::f32 : dtype;
}

std::vector<TensorSlot> slots_of(const Mamba2Config& config, ModelWeights& weights) {
  Mamba2Config with_bias = config;
  with_bias.use_conv_bias = true;
  std::vector<TensorSlot> slots = tensor_table(with_bias, weights);
  if (!config.tie_word_embeddings)
    slots.push_back({.name = "lm_head.weight",
                     .shape = {config.vocab_size, config.hidden_size},
                     .shape_text = "(vocab_size, hidden_size)",
                     .matrix = &weights.lm_head});
  return slots;
}

std::vector<Plan> plan(const Mamba2Config& config, const CanonicalTensors& tensors, std::optional<DType> dtype) {
  ModelWeights unused;
  std::vector<Plan> plans;
  for (TensorSlot& slot : slots_of(config, unused)) {
    const TensorInfo* info = tensors.find(slot.name);
    const bool may_be_absent = !config.use_conv_bias && slot.name.ends_with("conv1d.bias");
    require(info != nullptr || may_be_absent, "{}: tensor '{}' is missing, expected {} = {} by the config",
            tensors.file(), slot.name, to_string(slot.shape), slot.shape_text);
    require(info == nullptr || info->shape == slot.shape, "{}: tensor '{}' is {}, expected {} = {} by the config",
            tensors.file(), slot.name, info == nullptr ? "" : to_string(info->shape), to_string(slot.shape),
            slot.shape_text);
    const std::string name = name_to_gguf(slot.name);
    require(!name.empty(), "{}: tensor '{}' has no place in a GGUF file of architecture mamba2", tensors.file(),
            slot.name);
    const DType stored = info == nullptr ? DType::f32 : info->dtype;
    const TensorSpec spec{name, gguf_dtype(slot, stored, dtype), gguf_shape(slot, config)};
    plans.push_back({std::move(slot), info != nullptr, spec});
  }
  return plans;
}

/// Everything that the config's own check can't see.
void check_all_is_planned(const std::vector<Plan>& plans, const CanonicalTensors& tensors) {
  for (const auto& [canonical, info] : tensors.all()) {
    const bool is_head = canonical.starts_with("classification_head.") || canonical.starts_with("score.") ||
                         canonical.starts_with("classifier.");
    require(!is_head, "{}: tensor '{}': a classification head has no place in a GGUF file", info->file, info->name);
    const bool is_planned =
        std::any_of(plans.begin(), plans.end(),
                    [name = std::string_view(canonical)](const Plan& p) { return p.slot.name == name; });
    require(is_planned || !canonical.ends_with(".bias"), "{}: tensor '{}' has no place in a GGUF file", info->file,
            info->name);
  }
}

/// Sums over a tensor, added up from pieces.
struct Errors {
  double squares = 0, squared_errors = 0, largest = 0;

  void add(std::span<const float> stored, std::span<const float> written) {
    for (std::size_t i = 0; i < stored.size(); ++i) {
      const double error = std::abs(static_cast<double>(written[i]) - static_cast<double>(stored[i]));
      squares += static_cast<double>(stored[i]) * static_cast<double>(stored[i]);
      squared_errors += error * error;
      largest = std::max(largest, error);
    }
  }
  void add(const Errors& other) {
    squares += other.squares;
    squared_errors += other.squared_errors;
    largest = std::max(largest, other.largest);
  }
};

/// Rows of a matrix as the file's dtype, and what that costs.
Errors convert_rows(const Tensor& rows, const Tensor& to, const std::string& name) {
  const HostTensor stored(DType::f32, rows.shape), written(DType::f32, rows.shape);
  Errors errors;
  try {
    convert(rows, to);
    convert(rows, stored);
    convert(to, written);
  } catch (const Error& e) {
    fail("tensor '{}': {}", name, e.what());
  }
  errors.add(stored.span<float>(), written.span<float>());
  if (!std::isfinite(errors.squared_errors)) {
    const auto values = stored.span<float>();
    const float largest = *std::max_element(values.begin(), values.end(), [](float a, float b) {
      return !std::isnan(b) && (std::isnan(a) || std::abs(a) < std::abs(b));
    });
    fail("tensor '{}' holds {}, which {} can't", name, largest, mamba2::name(to.dtype));
  }
  return errors;
}

/// A = -exp(A_log), rounded once.
HostTensor negative_exponential(const Tensor& A_log) {
  const HostTensor f64(DType::f64, A_log.shape);
  HostTensor A(DType::f32, A_log.shape);
  convert(A_log, f64);
  for (double& value : f64.span<double>()) value = -std::exp(value);
  convert(f64, A);
  return A;
}

class Saver {
 public:
  Saver(GgufWriter& writer, const CanonicalTensors& tensors, const GgufSaveOptions& options)
      : writer_(writer), tensors_(tensors), options_(options) {}

  SavedGgufTensor save(const Plan& plan) {
    const TensorSpec& spec = plan.spec;
    if (!plan.is_there) {
      write(HostTensor(spec.dtype, spec.shape));
      return {.name = spec.name, .shape = spec.shape};
    }
    Tensor stored = tensors_.read(plan.slot.name).reshape(spec.shape);
    const DType was = stored.dtype;
    HostTensor A;
    if (plan.slot.name.ends_with(".A_log")) {
      A = negative_exponential(stored);
      stored = A;
    }
    Errors errors;
    const std::int64_t row_bytes = static_cast<std::int64_t>(bytes_for(spec.dtype, spec.shape[-1]));
    const std::int64_t step = std::max<std::int64_t>(1, piece_bytes / std::max<std::int64_t>(row_bytes, 1));
    const std::int64_t rows = spec.shape.rank() == 1 ? 1 : spec.shape[0];
    if (spec.shape.rank() == 1) stored = stored.reshape({1, spec.shape[0]});
    for (std::int64_t row = 0; row < rows; row += step)
      errors.add(save_rows(stored.slice(0, row, std::min(step, rows - row)), spec));
    const auto elements = static_cast<double>(std::max<std::int64_t>(spec.shape.elements(), 1));
    return {.name = spec.name,
            .stored = was,
            .dtype = spec.dtype,
            .shape = spec.shape,
            .rms_error = std::sqrt(errors.squared_errors / elements),
            .max_error = errors.largest,
            .rms = std::sqrt(errors.squares / elements)};
  }

 private:
  Errors save_rows(const Tensor& rows, const TensorSpec& spec) {
    Errors errors;
    const HostTensor converted(spec.dtype, rows.shape);
    std::mutex mutex;
    for_pieces(rows.size(0), options_.threads, [&](std::int64_t begin, std::int64_t end) {
      const Errors found =
          convert_rows(rows.slice(0, begin, end - begin), converted.view().slice(0, begin, end - begin), spec.name);
      const std::scoped_lock lock(mutex);
      errors.add(found);
    });
    write(converted);
    return errors;
  }

  void write(const Tensor& rows) {
    writer_.write(rows);
    written_ += rows.bytes();
    if (options_.on_progress) options_.on_progress(written_, writer_.data_bytes());
  }

  GgufWriter& writer_;
  const CanonicalTensors& tensors_;
  const GgufSaveOptions& options_;
  std::uint64_t written_ = 0;
};

void warn_of_requantising(const std::vector<Plan>& plans, const CanonicalTensors& tensors) {
  for (const Plan& p : plans) {
    const TensorInfo* info = tensors.find(p.slot.name);
    if (info == nullptr || !is_quantized(info->dtype) || !is_quantized(p.spec.dtype) || info->dtype == p.spec.dtype)
      continue;
    log_warning("{}: tensor '{}' is {} already; quantised again as {} it loses more than the original would",
                info->file, info->name, name(info->dtype), name(p.spec.dtype));
    return;
  }
}

}  // namespace

std::vector<SavedGgufTensor> save_gguf(const Mamba2Config& config, const TensorSource& source, const std::string& path,
                                       const GgufMetadataBuilder& metadata, const GgufSaveOptions& options) {
  const CanonicalTensors tensors(source);
  const std::vector<Plan> plans = plan(config, tensors, options.dtype);
  check_all_is_planned(plans, tensors);
  warn_of_requantising(plans, tensors);
  std::vector<TensorSpec> specs;
  for (const Plan& p : plans) specs.push_back(p.spec);
  GgufWriter writer(path, metadata, std::move(specs));
  Saver saver(writer, tensors, options);
  std::vector<SavedGgufTensor> saved;
  for (const Plan& p : plans) saved.push_back(saver.save(p));
  writer.commit();
  return saved;
}

}  // namespace mamba2
