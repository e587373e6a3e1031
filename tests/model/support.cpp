#include "support.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "mamba2/base/file.h"
#include "mamba2/base/json.h"
#include "mamba2/checkpoint/save_safetensors.h"
#include "mamba2/model/config_fields.h"
#include "mamba2/model/locate.h"
#include "mamba2/ops/thread_communicator.h"
#include "mamba2/reference/reference_backend.h"
#include "tests/pending_backend.h"

namespace mamba2::test {

namespace {

void replace_fields(Json& config, const std::string& replaced) {
  const Json changes = parse_json(replaced, "changes");
  for (const auto& [field, value] : changes.items()) {
    const std::size_t dot = field.find('.');
    if (dot == std::string::npos)
      config[field] = value;
    else
      config[field.substr(0, dot)][field.substr(dot + 1)] = value;
  }
}

}  // namespace

EditedCheckpoint::EditedCheckpoint(const std::string& name)
    : config_(json_text(read_json_file(golden_folder(name) + "/config.json"))) {
  const std::unique_ptr<TensorSource> source = open_tensors(golden_folder(name));
  for (const TensorInfo& info : source->tensors()) {
    HostTensor tensor(info.dtype, info.shape);
    convert(source->read(info.name), tensor);
    tensors_.emplace(info.name, std::move(tensor));
  }
}

void EditedCheckpoint::set(const std::string& replaced) {
  Json config = parse_json(config_, "config");
  replace_fields(config, replaced);
  config_ = json_text(config);
}

void EditedCheckpoint::zero(const std::string& tensor, DType dtype, const Shape& shape) {
  tensors_[tensor] = HostTensor(dtype, shape);
}

void EditedCheckpoint::copy(const std::string& tensor, const std::string& as) {
  const Tensor& from = at(tensor);
  HostTensor made(from.dtype, from.shape);
  convert(from, made);
  tensors_[as] = std::move(made);
}

void EditedCheckpoint::rename(const std::string& tensor, const std::string& to) {
  if (tensor == to) return;
  copy(tensor, to);
  erase(tensor);
}

void EditedCheckpoint::rename_all(const std::string& prefix, const std::string& to) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_)
    if (name.starts_with(prefix)) names.push_back(name);
  for (const std::string& name : names) rename(name, to + name.substr(prefix.size()));
}

void EditedCheckpoint::write(const std::string& folder) const {
  make_directories(folder);
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : tensors_) specs.push_back({name, tensor.view().dtype, tensor.view().shape});
  save_safetensors(folder, specs, [&](const TensorSpec& spec) { return tensors_.at(spec.name).view(); });
  AtomicFile file(folder + "/config.json");
  file.write(config_);
  file.commit();
}

std::string golden_folder(const std::string& name) {
  return MAMBA2_SOURCE_DIR "/tests/data/golden/" + name;
}

namespace {

/// All of them by name, opened once: every instantiation asks, and ctest starts the program anew for each test.
const std::map<std::string, Golden>& goldens() {
  static const std::map<std::string, Golden> all = [] {
    std::map<std::string, Golden> opened;
    for (const auto& entry : std::filesystem::directory_iterator(golden_folder("")))
      if (const std::string name = entry.path().filename().string(); entry.is_directory())
        opened.try_emplace(name, name);
    return opened;
  }();
  return all;
}

}  // namespace

std::vector<std::string> golden_cases_with(const std::string& tensor) {
  std::vector<std::string> names;
  for (const auto& [name, golden] : goldens())
    if (golden.has(tensor)) names.push_back(name);
  return names;
}

std::vector<std::int32_t> Golden::integers(const std::string& tensor, std::int64_t row) const {
  const Tensor all = read(tensor);
  const Tensor values = all.rank() == 2 ? all[row] : all;
  std::vector<std::int32_t> out;
  for (std::int64_t i = 0; i < values.size(0); ++i)
    out.push_back(static_cast<std::int32_t>(values.as<std::int64_t>()[i]));
  return out;
}

std::optional<Greedy> greedy_of(const std::string& name) {
  const Json json = read_json_file(golden_folder(name) + "/golden.json");
  if (!json.contains("greedy")) return std::nullopt;
  const Json& greedy = json["greedy"];
  return Greedy{greedy["prompt_ids"].get<std::vector<std::int32_t>>(),
                greedy["new_ids"].get<std::vector<std::int32_t>>()};
}

std::string read_text(const std::string& file) {
  return read_file(file);
}

Mamba2Config config_of(const std::string& json, const std::string& replaced) {
  Json config = parse_json(json, "config.json");
  replace_fields(config, replaced);
  return Mamba2Config::from_json(config, "config.json");
}

Mamba2Model open_model(const std::string& folder, const std::string& device, LoadOptions options) {
  options.device = device;
  if (device != "reference_f64" && device != "pending") return Mamba2Model::from_pretrained(folder, options);
  const ModelFiles files = locate_model(folder);
  if (device == "pending")
    return {files.read_config(), open_tensors(files.weights),
            std::make_unique<PendingBackend>(make_reference_backend(), 3), options};
  return {files.read_config(), open_tensors(files.weights), reference_ranks(options.tensor_parallel), options};
}

std::vector<std::unique_ptr<Backend>> reference_ranks(int ranks) {
  std::vector<std::unique_ptr<Backend>> backends;
  for (int rank = 0; rank < ranks; ++rank) backends.push_back(make_reference_backend(DType::f64));
  if (ranks > 1) join_in_threads(backends);
  return backends;
}

void join_in_threads(std::span<const std::unique_ptr<Backend>> backends) {
  std::vector<std::unique_ptr<Communicator>> made = make_thread_communicators(static_cast<int>(backends.size()));
  for (std::size_t rank = 0; rank < backends.size(); ++rank) backends[rank]->join(std::move(made[rank]));
}

Mamba2ForCausalLM open_lm(const std::string& folder, const std::string& device, LoadOptions options) {
  return Mamba2ForCausalLM(open_model(folder, device, std::move(options)));
}

double relative_error(const Tensor& got, const Tensor& expected) {
  constexpr double wrong = std::numeric_limits<double>::infinity();
  if (!(got.shape == expected.shape) || !got.contiguous() || !expected.contiguous()) return wrong;
  double largest = 0, difference = 0;
  for (std::int64_t i = 0; i < expected.elements(); ++i) {
    const double value = element_as_double(got, i), wanted = element_as_double(expected, i);
    if (!std::isfinite(value)) return wrong;
    largest = std::max(largest, std::abs(wanted));
    difference = std::max(difference, std::abs(value - wanted));
  }
  return difference == 0 ? 0 : difference / largest;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.contiguous() && b.contiguous() &&
         std::memcmp(a.data, b.data, a.bytes()) == 0;
}

HostTensor on_host(Backend& backend, const Tensor& tensor) {
  HostTensor host(tensor.dtype, tensor.shape);
  backend.download(tensor, host.view());
  return host;
}

HostTensor logits_in_pieces(Mamba2ForCausalLM& model, Mamba2Cache& cache, std::span<const std::int32_t> ids,
                            std::size_t piece) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  HostTensor all(model.model().backend().activation_dtype(), {tokens, model.config().vocab_size});
  for (std::size_t begin = 0; begin < ids.size(); begin += piece) {
    const auto part = ids.subspan(begin, std::min(piece, ids.size() - begin));
    const SequenceInput input{.input_ids = part, .logits_to_keep = all_positions};
    const ForwardOutput output = model.forward({&input, 1}, cache);
    convert(output.logits,
            all.view().slice(0, static_cast<std::int64_t>(begin), static_cast<std::int64_t>(part.size())));
  }
  return all;
}

HostTensor logits_of(Mamba2ForCausalLM& model, std::span<const std::int32_t> ids) {
  Mamba2Cache cache = model.make_cache(1);
  return logits_in_pieces(model, cache, ids, std::max<std::size_t>(ids.size(), 1));
}

}  // namespace mamba2::test
