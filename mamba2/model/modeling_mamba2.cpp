#include "mamba2/model/modeling_mamba2.h"

#include <algorithm>
#include <deque>
#include <limits>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/model/forward.h"
#include "mamba2/model/load.h"
#include "mamba2/model/locate.h"
#include "mamba2/model/rank_threads.h"
#include "mamba2/model/save.h"
#include "mamba2/tensor/quantized.h"

namespace mamba2 {
namespace {

struct StateFormat {
  DType dtype = DType::f32;
  StateRounding rounding = StateRounding::nearest;
};

}  // namespace

/// Members are destroyed last to first: the passes and the weights before the backends that own their memory, the
/// backends before the mapped files that their weights may lie in.
struct Mamba2Model::Parts {
  std::string path;
  Mamba2Config config;
  StateFormat state;
  std::unique_ptr<TensorSource> source;
  std::vector<std::unique_ptr<Backend>> backends;  // one a rank, as all that follows
  std::vector<ModelPart> parts;
  std::vector<ModelWeights> weights;
  std::deque<ForwardPass> passes;
  std::vector<ForwardOutput> outputs;  // of the ranks after the first, which nobody looks at
  std::int64_t piece_tokens = 0;
  std::optional<RankThreads> threads;

  void run(std::span<const SequenceInput> sequences, Mamba2Cache& cache, const ForwardOptions& options, bool wants_head,
           ForwardOutput& output);
  void finish(std::vector<std::int32_t>& next_tokens);
};

/// All ranks are given the same; what is found wrong with it is so before any of them begins.
void Mamba2Model::Parts::run(std::span<const SequenceInput> sequences, Mamba2Cache& cache,
                             const ForwardOptions& options, bool wants_head, ForwardOutput& output) {
  auto run_rank = [&](std::size_t rank, const ForwardOptions& asked, ForwardOutput& to) {
    passes[rank].run(sequences, cache.of_rank(rank), asked, wants_head ? weights[rank].head() : nullptr, to);
  };
  if (!threads) return run_rank(0, options, output);
  passes.front().check(sequences, cache, options);
  const ForwardOptions for_first{options.output_hidden_states, options.output_last_hidden_state,
                                 options.piece_tokens > 0 ? options.piece_tokens : piece_tokens};
  threads->run([&](int index) {
    const auto rank = static_cast<std::size_t>(index);
    if (rank == 0)
      run_rank(rank, for_first, output);
    else
      run_rank(rank, {.piece_tokens = for_first.piece_tokens}, outputs[rank - 1]);
  });
}

void Mamba2Model::Parts::finish(std::vector<std::int32_t>& next_tokens) {
  if (!threads) return passes.front().finish(next_tokens);
  threads->run([&](int index) {
    const auto rank = static_cast<std::size_t>(index);
    passes[rank].finish(rank == 0 ? next_tokens : outputs[rank - 1].next_tokens);
  });
}

namespace {

std::optional<DType> parse_weight_dtype(const std::string& text) {
  if (text == "auto") return std::nullopt;
  const std::optional<DType> dtype = parse_dtype(text);
  require(dtype.has_value() && (is_floating(*dtype) || can_quantize(*dtype)),
          "dtype is '{}', expected auto, f32, bf16, f16, q8_0, q4_0, q4_k or q6_k", printable(text));
  return dtype;
}

StateFormat parse_state_dtype(const std::string& text) {
  if (text == "bf16-stochastic") return {DType::bf16, StateRounding::stochastic};
  const std::optional<DType> dtype = parse_dtype(text);
  require(dtype == DType::f32 || dtype == DType::bf16, "state dtype is '{}', expected f32, bf16 or bf16-stochastic",
          printable(text));
  return {*dtype, StateRounding::nearest};
}

/// The file to name where a head is missing.
std::string_view file_of(const TensorSource& source) {
  return CanonicalTensors(source).file();
}

GatedNorm parse_gated_norm(const std::string& text, GatedNorm from_config) {
  if (text == "auto") return from_config;
  require(text == "grouped" || text == "ungrouped", "gated norm is '{}', expected auto, grouped or ungrouped",
          printable(text));
  return text == "grouped" ? GatedNorm::grouped : GatedNorm::ungrouped;
}

}  // namespace

Mamba2Model::Mamba2Model(Mamba2Config config, std::unique_ptr<TensorSource> source, const LoadOptions& options)
    : Mamba2Model(
          std::move(config), std::move(source),
          make_backends({.device = options.device, .threads = options.threads, .deterministic = options.deterministic},
                        options.tensor_parallel),
          options) {}

namespace {

std::vector<std::unique_ptr<Backend>> alone(std::unique_ptr<Backend> backend) {
  std::vector<std::unique_ptr<Backend>> ranks;
  ranks.push_back(std::move(backend));
  return ranks;
}

}  // namespace

Mamba2Model::Mamba2Model(Mamba2Config config, std::unique_ptr<TensorSource> source, std::unique_ptr<Backend> backend,
                         const LoadOptions& options)
    : Mamba2Model(std::move(config), std::move(source), alone(std::move(backend)), options) {}

Mamba2Model::Mamba2Model(Mamba2Config config, std::unique_ptr<TensorSource> source,
                         std::vector<std::unique_ptr<Backend>> ranks, const LoadOptions& options)
    : parts_(std::make_unique<Parts>()) {
  Parts& p = *parts_;
  const std::optional<DType> dtype = parse_weight_dtype(options.dtype);
  p.state = parse_state_dtype(options.state_dtype);
  p.config = std::move(config);
  p.config.gated_norm = parse_gated_norm(options.gated_norm, p.config.gated_norm);
  p.source = std::move(source);
  const CanonicalTensors tensors(*p.source);
  adjust_to_tensors(p.config, tensors);
  p.backends = std::move(ranks);
  std::vector<Backend*> backends;
  for (const std::unique_ptr<Backend>& backend : p.backends) backends.push_back(backend.get());
  const Split split(p.config, static_cast<int>(backends.size()));
  p.weights = load_weights(p.config, split, tensors, backends, dtype);
  for (std::size_t rank = 0; rank < backends.size(); ++rank) p.parts.push_back(split.part(static_cast<int>(rank)));
  p.piece_tokens = std::numeric_limits<std::int64_t>::max();
  for (std::size_t rank = 0; rank < backends.size(); ++rank) {
    const ForwardPass& pass = p.passes.emplace_back(p.parts[rank], p.weights[rank], *backends[rank]);
    p.piece_tokens = std::min(p.piece_tokens, pass.piece_tokens());
  }
  if (split.ranks() == 1) return;
  p.outputs.resize(backends.size() - 1);
  p.threads.emplace(split.ranks(), [backends] {
    for (Backend* const backend : backends) backend->communicator()->abort();
  });
}

Mamba2Model::Mamba2Model(Mamba2Model&&) noexcept = default;
Mamba2Model& Mamba2Model::operator=(Mamba2Model&&) noexcept = default;
Mamba2Model::~Mamba2Model() = default;

Mamba2Model Mamba2Model::from_pretrained(const std::string& path, const LoadOptions& options) {
  const ModelFiles files = locate_model(path);
  Mamba2Model model(files.read_config(), open_tensors(files.weights), options);
  model.parts_->path = files.folder;
  return model;
}

const Mamba2Config& Mamba2Model::config() const {
  return parts_->config;
}
Backend& Mamba2Model::backend() const {
  return *parts_->backends.front();
}
int Mamba2Model::ranks() const {
  return static_cast<int>(parts_->backends.size());
}
const TensorSource& Mamba2Model::source() const {
  return *parts_->source;
}
const ModelWeights& Mamba2Model::weights() const {
  return parts_->weights.front();
}
std::string Mamba2Model::path() const {
  return parts_->path;
}

std::int64_t Mamba2Model::piece_tokens() const {
  return parts_->piece_tokens;
}

Mamba2Cache Mamba2Model::make_cache(std::int64_t slots) const {
  const Parts& p = *parts_;
  auto make = [&](std::size_t rank) {
    return Mamba2Cache(p.parts[rank].config, *p.backends[rank], slots, p.state.dtype, p.state.rounding);
  };
  Mamba2Cache cache = make(0);
  for (std::size_t rank = 1; rank < p.backends.size(); ++rank) cache.add_rank(make(rank));
  return cache;
}

ForwardOutput Mamba2Model::forward(std::span<const SequenceInput> sequences, Mamba2Cache& cache,
                                   const ForwardOptions& options) {
  for (const SequenceInput& sequence : sequences)
    require(sequence.next == nullptr, "a token is asked for of a model without a language-modelling head");
  ForwardOutput output;
  parts_->run(sequences, cache, options, false, output);
  return output;
}

Mamba2ForCausalLM Mamba2ForCausalLM::from_pretrained(const std::string& path, const LoadOptions& options) {
  return Mamba2ForCausalLM(Mamba2Model::from_pretrained(path, options));
}

Mamba2ForCausalLM::Mamba2ForCausalLM(Mamba2Model model) : model_(std::move(model)) {
  require(model_.weights().lm_head != nullptr || config().tie_word_embeddings,
          "{}: tensor 'lm_head.weight' is missing, and the config says that the head is not tied to the embeddings",
          file_of(model_.source()));
}

ForwardOutput Mamba2ForCausalLM::forward(std::span<const SequenceInput> sequences, Mamba2Cache& cache,
                                         const ForwardOptions& options) {
  ForwardOutput output;
  forward(sequences, cache, options, output);
  return output;
}

void Mamba2ForCausalLM::forward(std::span<const SequenceInput> sequences, Mamba2Cache& cache,
                                const ForwardOptions& options, ForwardOutput& output) {
  Mamba2Model::Parts& parts = *model_.parts_;
  const std::size_t unfinished = parts.passes.front().unfinished();
  require(unfinished == 0, "{} passes are not finished", unfinished);
  parts.run(sequences, cache, options, true, output);
  parts.finish(output.next_tokens);
}

void Mamba2ForCausalLM::start(std::span<const SequenceInput> sequences, Mamba2Cache& cache, ForwardOutput& output) {
  model_.parts_->run(sequences, cache, {}, true, output);
}

void Mamba2ForCausalLM::finish(std::vector<std::int32_t>& next_tokens) {
  model_.parts_->finish(next_tokens);
}

void Mamba2ForCausalLM::save_pretrained(const std::string& folder, const std::string& dtype) const {
  save_checkpoint(model_.config(), model_.source(), folder, parse_weight_dtype(dtype));
}

Mamba2ForSequenceClassification Mamba2ForSequenceClassification::from_pretrained(const std::string& path,
                                                                                 const LoadOptions& options) {
  return Mamba2ForSequenceClassification(Mamba2Model::from_pretrained(path, options));
}

Mamba2ForSequenceClassification::Mamba2ForSequenceClassification(Mamba2Model model) : model_(std::move(model)) {
  require(model_.weights().classifier.out_proj != nullptr,
          "{}: has no classification head: found none of 'classification_head.out_proj.weight', 'score.weight', "
          "'classifier.weight'",
          file_of(model_.source()));
}

ClassificationOutput Mamba2ForSequenceClassification::forward(std::span<const std::vector<std::int32_t>> sequences) {
  ClassificationOutput output;
  const auto count = static_cast<std::int64_t>(sequences.size());
  if (count == 0) return output;
  std::vector<SequenceInput> inputs;
  for (const std::vector<std::int32_t>& sequence : sequences) {
    require(!sequence.empty(), "input_ids: sequence {} is empty, expected one token or more", inputs.size());
    inputs.push_back({.input_ids = sequence, .slot = static_cast<std::int64_t>(inputs.size()), .logits_to_keep = 0});
  }
  Mamba2Cache cache = model_.make_cache(count);
  const ForwardOutput states = model_.forward(inputs, cache, {.output_last_hidden_state = true});

  Backend& backend = model_.backend();
  const ClassifierWeights& head = model_.weights().classifier;
  const DType dtype = backend.activation_dtype();
  const HostTensor last(dtype, {count, config().hidden_size});
  std::int64_t end = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    end += static_cast<std::int64_t>(sequences[static_cast<std::size_t>(i)].size());
    convert(states.last_hidden_state.view()[end - 1], last.view()[i]);
  }
  const DeviceTensor hidden = backend.upload(last, dtype), dense = backend.allocate(dtype, last.view().shape);
  if (head.dense != nullptr) {
    backend.run(Linear{.x = hidden, .weight = head.dense.get(), .bias = head.dense_bias, .add = {}, .out = dense});
    backend.run(Activate{.x = dense, .act = Activation::silu, .out = hidden});
  }
  const DeviceTensor logits = backend.allocate(dtype, {count, config().num_labels});
  backend.run(Linear{.x = hidden, .weight = head.out_proj.get(), .bias = head.out_proj_bias, .add = {}, .out = logits});
  const HostTensor on_host(dtype, logits.view.shape);
  backend.download(logits, on_host);
  for (std::int64_t i = 0; i < count; ++i) {
    const Tensor row = on_host.view()[i];
    std::vector<double>& values = output.logits.emplace_back();
    for (std::int64_t j = 0; j < row.size(0); ++j) values.push_back(element_as_double(row, j));
  }
  return output;
}

ProblemType Mamba2ForSequenceClassification::problem_type(bool integral_labels) const {
  if (config().problem_type) return *config().problem_type;
  if (config().num_labels == 1) return ProblemType::regression;
  return integral_labels ? ProblemType::single_label_classification : ProblemType::multi_label_classification;
}

void Mamba2ForSequenceClassification::save_pretrained(const std::string& folder, const std::string& dtype) const {
  save_checkpoint(model_.config(), model_.source(), folder, parse_weight_dtype(dtype));
}

std::size_t tokens_before_padding(std::span<const std::int32_t> row, std::optional<std::int64_t> pad_token_id) {
  if (!pad_token_id) return row.size();
  const auto first = static_cast<std::size_t>(std::find(row.begin(), row.end(), *pad_token_id) - row.begin());
  return first == 0 ? row.size() : first;
}

}  // namespace mamba2
