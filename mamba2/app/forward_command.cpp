#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "mamba2/app/commands.h"
#include "mamba2/app/interrupt.h"
#include "mamba2/app/options.h"
#include "mamba2/app/token_input.h"
#include "mamba2/base/error.h"
#include "mamba2/base/progress.h"
#include "mamba2/checkpoint/safetensors_writer.h"
#include "mamba2/model/loss.h"

namespace mamba2::app {
namespace {

struct ForwardCommand {
  ModelOptions options;
  std::string input_file, output_file;
  bool hidden_states = false, states = false;
  std::int64_t split = 0;

  void run();

 private:
  void check_input(std::int64_t vocab_size) const;
  void feed(Mamba2ForCausalLM& model, Mamba2Cache& cache);
  void place(const ForwardOutput& output, const std::vector<std::size_t>& rows, std::int64_t first);
  void add_states(const Mamba2ForCausalLM& model, Mamba2Cache& cache);
  void add_loss();

  TokenInput input_;
  std::int64_t length_ = 0;
  std::vector<std::vector<std::int32_t>> tokens_;     // each row without its padding
  std::vector<std::vector<std::int64_t>> positions_;  // where each of them stands in its row
  std::map<std::string, HostTensor> results_;
};

/// Copies rows of one step's output to where their tokens stand; positions under the mask stay zero.
void ForwardCommand::place(const ForwardOutput& output, const std::vector<std::size_t>& rows, std::int64_t first) {
  auto copy = [&](const HostTensor& from, const std::string& name) {
    const Tensor& to = results_.at(name).view();
    std::int64_t token = 0;
    for (const std::size_t row : rows)
      for (std::int64_t i = first; i < first + split && i < static_cast<std::int64_t>(tokens_[row].size()); ++i)
        convert(from.view()[token++], to[static_cast<std::int64_t>(row)][positions_[row][static_cast<std::size_t>(i)]]);
  };
  copy(output.logits, "logits");
  copy(output.last_hidden_state, "last_hidden_state");
  for (std::size_t i = 1; i < output.hidden_states.size(); ++i)
    copy(output.hidden_states[i], fmt::format("hidden_states.{}", i - 1));
}

void ForwardCommand::feed(Mamba2ForCausalLM& model, Mamba2Cache& cache) {
  ProgressBar bar("forward", static_cast<std::uint64_t>(length_), ProgressUnit::items);
  for (std::int64_t first = 0; first < length_; first += split) {
    std::vector<SequenceInput> inputs;
    std::vector<std::size_t> rows;
    for (std::size_t row = 0; row < tokens_.size(); ++row) {
      const auto left = static_cast<std::int64_t>(tokens_[row].size()) - first;
      if (left <= 0) continue;
      const std::span<const std::int32_t> all(tokens_[row]);
      inputs.push_back(
          {.input_ids = all.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(std::min(left, split))),
           .slot = static_cast<std::int64_t>(row),
           .logits_to_keep = all_positions});
      rows.push_back(row);
    }
    if (inputs.empty()) break;
    place(model.forward(inputs, cache, {.output_hidden_states = hidden_states, .output_last_hidden_state = true}), rows,
          first);
    bar.update(static_cast<std::uint64_t>(std::min(first + split, length_)));
    check_interrupt();
  }
}

void ForwardCommand::add_states(const Mamba2ForCausalLM& model, Mamba2Cache& cache) {
  cache.settle();
  auto add = [&](const DeviceTensor& state, const std::string& name) {
    if (state.view.empty()) return;
    const HostTensor stored(state.view.dtype, state.view.shape);
    model.model().backend().download(state, stored);
    convert(stored, results_.emplace(name, HostTensor(DType::f32, state.view.shape)).first->second);
  };
  for (std::int64_t i = 0; i < cache.layers(); ++i) {
    add(cache.layer(i).conv_state, fmt::format("conv_state.{}", i));
    add(cache.layer(i).ssm_state, fmt::format("ssm_state.{}", i));
  }
}

/// Mean over the pairs of neighbouring tokens whose second one has a label.
void ForwardCommand::add_loss() {
  double sum = 0;
  std::int64_t count = 0;
  const Tensor& logits = results_.at("logits").view();
  for (std::size_t row = 0; row < tokens_.size(); ++row) {
    for (std::size_t i = 0; i + 1 < positions_[row].size(); ++i) {
      const double label = input_.labels[row][static_cast<std::size_t>(positions_[row][i + 1])];
      if (label == ignored_label) continue;
      sum += negative_log_likelihood(logits[static_cast<std::int64_t>(row)][positions_[row][i]],
                                     static_cast<std::int32_t>(label));
      ++count;
    }
  }
  HostTensor loss(DType::f32, {1});
  loss.span<float>()[0] =
      count == 0 ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(sum / static_cast<double>(count));
  results_.emplace("loss", std::move(loss));
}

/// Before anything is computed.
void ForwardCommand::check_input(std::int64_t vocab_size) const {
  check_token_ids(input_, input_file, vocab_size);
  for (std::size_t row = 0; row < input_.labels.size(); ++row) {
    const std::vector<double>& labels = input_.labels[row];
    require(static_cast<std::int64_t>(labels.size()) == length_, "{}: row {} of labels has {} numbers, expected {}",
            input_file, row, labels.size(), length_);
    for (const double label : labels)
      require(label == ignored_label ||
                  (std::trunc(label) == label && label >= 0 && label < static_cast<double>(vocab_size)),
              "{}: labels holds {}, expected -100 or a token id below {}", input_file, label, vocab_size);
  }
}

void ForwardCommand::run() {
  input_ = read_token_input(input_file);
  length_ = row_length(input_, input_file);
  for (std::size_t row = 0; row < input_.input_ids.size(); ++row) {
    tokens_.push_back(input_.tokens(row));
    std::vector<std::int64_t>& positions = positions_.emplace_back();
    for (std::size_t i = 0; i < input_.input_ids[row].size(); ++i)
      if (input_.is_token(row, i)) positions.push_back(static_cast<std::int64_t>(i));
  }
  if (split == 0) split = std::max<std::int64_t>(length_, 1);

  require(!states || options.load.tensor_parallel == 1,
          "--states has no place beside --tensor-parallel {}: each rank has a part of the state",
          options.load.tensor_parallel);
  Mamba2ForCausalLM model = Mamba2ForCausalLM::from_pretrained(options.model_path(), options.load);
  const Mamba2Config& config = model.config();
  check_input(config.vocab_size);
  const Shape hidden{input_.rows(), length_, config.hidden_size};
  results_.emplace("logits", HostTensor(DType::f32, {input_.rows(), length_, config.vocab_size}));
  results_.emplace("last_hidden_state", HostTensor(DType::f32, hidden));
  for (std::int64_t i = 0; hidden_states && i < config.num_hidden_layers; ++i)
    results_.emplace(fmt::format("hidden_states.{}", i), HostTensor(DType::f32, hidden));
  Mamba2Cache cache = model.make_cache(input_.rows());
  catch_interrupts();
  feed(model, cache);
  if (states) add_states(model, cache);
  if (!input_.labels.empty()) add_loss();

  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : results_) specs.push_back({name, DType::f32, tensor.view().shape});
  SafetensorsWriter writer(output_file, std::move(specs));
  for (const TensorSpec& spec : writer.tensors()) writer.write(results_.at(spec.name));
  writer.finish();
  writer.commit();
}

}  // namespace

void add_forward(CLI::App& app) {
  auto state = std::make_shared<ForwardCommand>();
  CLI::App* command = app.add_subcommand("forward", "One forward pass: token ids in, logits and states out");
  command->option_defaults()->group("Input and output");
  command
      ->add_option("--input", state->input_file,
                   "A JSON file: {\"input_ids\": [[...]], \"attention_mask\"?, \"labels\"?}, rows equally long")
      ->required();
  command->add_option("--output", state->output_file, "The safetensors file to write")->required();
  command->add_flag("--hidden-states", state->hidden_states,
                    "Write hidden_states.I, the residual stream after layer I");
  command->add_flag("--states", state->states, "Write conv_state.I and ssm_state.I after the last token");
  command->add_option("--split", state->split, "Feed so many tokens at a time through the cache")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 31));
  add_model_options(*command, state->options);
  command->callback([state] { state->run(); });
}

}  // namespace mamba2::app
