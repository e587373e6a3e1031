#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mamba2/checkpoint/tensor_source.h"
#include "mamba2/model/cache.h"
#include "mamba2/model/config.h"
#include "mamba2/model/weights.h"
#include "mamba2/ops/backend.h"

/// The models of Hugging Face's mamba2, by the same names.  A model and the caches made from it belong to one thread at
/// a time.
namespace mamba2 {

/// How to load a model.
struct LoadOptions {
  std::string device = "auto";  ///< "auto", "reference", "cpu", "cuda"
  /// What matrices are held and multiplied as: "auto" (as stored), "f32", "bf16", "f16", "q8_0", "q4_0", "q4_k", "q6_k"
  /// (the quantised ones by tensor: mamba2/model/held_dtype.h).
  std::string dtype = "auto";
  std::string state_dtype = "f32";  ///< of ssm_state: f32, bf16 (rounded to nearest), bf16-stochastic
  std::string gated_norm = "auto";  ///< "auto" (the config's, else grouped), "grouped", "ungrouped"
  int threads = 0;                  ///< 0: one a core
  bool deterministic = false;       ///< as in DeviceOptions
  int tensor_parallel = 1;          ///< ranks that compute the model together: GPUs, or on the host groups of threads
};

/// Tokens of one sequence to feed now; {chosen_token} is what the call before chose for the slot.
struct SequenceInput {
  std::span<const std::int32_t> input_ids = {};
  /// (tokens, hidden_size) in the place of input_ids, or empty.
  std::span<const float> inputs_embeds = {};
  std::int64_t slot = 0;               ///< of the cache, where the sequence's state is read and replaced
  std::int64_t logits_to_keep = 1;     ///< the last so many positions are projected; 0: none; all_positions: every one
  const TokenRequest* next = nullptr;  ///< set: a token is asked for, and no logits
};
inline constexpr std::int64_t all_positions = -1;

struct ForwardOptions {
  bool output_hidden_states = false;      ///< the residual stream after each layer, and before the first
  bool output_last_hidden_state = false;  ///< after the final norm
  std::int64_t piece_tokens = 0;          ///< that go through the layers at a time; 0: the model's piece_tokens()
};

/// Host tensors in the backend's activation dtype (f32; f64 for the reference in double).
struct ForwardOutput {
  HostTensor logits;             ///< (kept positions of all sequences end to end, vocab_size)
  HostTensor last_hidden_state;  ///< (tokens, hidden_size), sequences end to end
  std::vector<HostTensor>
      hidden_states;  ///< num_hidden_layers + 1 of (tokens, hidden_size): embeddings, then after layer I
  std::vector<std::int32_t> next_tokens;  ///< of the sequences that asked for one, or a TokenRefusal
};

/// The backbone: embeddings, layers, final norm.
class Mamba2Model {
 public:
  /// path: a folder or a file of any supported container, or a Hub name ORG/NAME[@REVISION].  Throws Error.
  static Mamba2Model from_pretrained(const std::string& path, const LoadOptions& options = {});
  /// From parts already opened; the source stays with the model, which may use the mapped file in place.
  Mamba2Model(Mamba2Config config, std::unique_ptr<TensorSource> source, const LoadOptions& options);
  /// On a backend already opened; options.device and options.threads have no effect.
  Mamba2Model(Mamba2Config config, std::unique_ptr<TensorSource> source, std::unique_ptr<Backend> backend,
              const LoadOptions& options);
  /// Split over several that have joined, a rank each; options.tensor_parallel has no effect either.
  Mamba2Model(Mamba2Config config, std::unique_ptr<TensorSource> source, std::vector<std::unique_ptr<Backend>> ranks,
              const LoadOptions& options);

  Mamba2Model(Mamba2Model&&) noexcept;
  Mamba2Model& operator=(Mamba2Model&&) noexcept;
  ~Mamba2Model();

  const Mamba2Config& config() const;
  int ranks() const;
  /// Of the first rank, as are the weights, where the model is split.
  Backend& backend() const;
  const TensorSource& source() const;
  const ModelWeights& weights() const;
  std::string path() const;
  /// Tokens of a prompt that go through the layers at a time, by the backend and its memory when the model was loaded;
  /// the least of all ranks'.
  std::int64_t piece_tokens() const;

  /// Zeroed state for so many sequences.
  Mamba2Cache make_cache(std::int64_t slots) const;

  /// Feeds each sequence's tokens after what its slot holds; cache is advanced.  Sequences may have any lengths, 0
  /// included, so prefill, chunked prefill, decode and mixtures are one call.  No two sequences may share a slot.
  /// A sequence is cut into pieces of work by its own length alone, so its results do not depend on its neighbours.
  /// logits are left empty by the backbone.  Work space does not grow with the number of tokens beyond a fixed piece,
  /// but with the longest sequence where the attention has dynamic RoPE: it turns the tokens of a call together, which
  /// is why feeding them in parts then gives, as in transformers, something else.  Throws Error for a token id outside
  /// the vocabulary, a slot outside the cache.
  ForwardOutput forward(std::span<const SequenceInput> sequences, Mamba2Cache& cache,
                        const ForwardOptions& options = {});

 private:
  friend class Mamba2ForCausalLM;
  friend class Mamba2ForSequenceClassification;
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// The backbone with a language-modelling head.
class Mamba2ForCausalLM {
 public:
  static Mamba2ForCausalLM from_pretrained(const std::string& path, const LoadOptions& options = {});
  explicit Mamba2ForCausalLM(Mamba2Model model);

  const Mamba2Config& config() const { return model_.config(); }
  Mamba2Model& model() { return model_; }
  const Mamba2Model& model() const { return model_; }
  Mamba2Cache make_cache(std::int64_t slots) const { return model_.make_cache(slots); }

  /// As Mamba2Model::forward, with logits.
  ForwardOutput forward(std::span<const SequenceInput> sequences, Mamba2Cache& cache,
                        const ForwardOptions& options = {});
  /// The same into an output of before, whose tensors are written in place where their shapes are right already: a
  /// decode loop allocates nothing.
  void forward(std::span<const SequenceInput> sequences, Mamba2Cache& cache, const ForwardOptions& options,
               ForwardOutput& output);
  /// The same without waiting for the tokens that sequences want: finish() gives those of the oldest pass that has any.
  /// So a next pass may be under way (chosen_token) while the host looks at the last one's tokens.  Logits are waited
  /// for.
  void start(std::span<const SequenceInput> sequences, Mamba2Cache& cache, ForwardOutput& output);
  void finish(std::vector<std::int32_t>& next_tokens);

  /// Writes config.json and safetensors in merged Hugging Face form where it can hold the model, in the fork's where
  /// attention or MLP layers need it, else in state-spaces' names.  dtype: "auto" keeps each tensor's.
  void save_pretrained(const std::string& folder, const std::string& dtype = "auto") const;

 private:
  Mamba2Model model_;
};

struct ClassificationOutput {
  std::vector<std::vector<double>> logits;  ///< (sequences, num_labels)
};

/// The backbone with a classification head, read at the last token before padding.
class Mamba2ForSequenceClassification {
 public:
  static Mamba2ForSequenceClassification from_pretrained(const std::string& path, const LoadOptions& options = {});
  explicit Mamba2ForSequenceClassification(Mamba2Model model);

  const Mamba2Config& config() const { return model_.config(); }
  Mamba2Model& model() { return model_; }

  /// Each sequence without its padding; an empty one is an Error.
  ClassificationOutput forward(std::span<const std::vector<std::int32_t>> sequences);

  /// The config's, or what transformers infers from num_labels and integral labels.
  /// integral_labels: whether the labels are class ids.  See classification_loss in loss.h.
  ProblemType problem_type(bool integral_labels) const;

  void save_pretrained(const std::string& folder, const std::string& dtype = "auto") const;

 private:
  Mamba2Model model_;
};

/// How many tokens of a right-padded row a classifier reads: up to the first pad token; all where there is none, and,
/// as transformers does, where the row starts with one.
std::size_t tokens_before_padding(std::span<const std::int32_t> row, std::optional<std::int64_t> pad_token_id);

}  // namespace mamba2
