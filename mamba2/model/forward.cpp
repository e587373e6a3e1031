#include "mamba2/model/forward.h"

#include <algorithm>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

/// Tokens that go through the layers at a time: enough for a matrix product to run at its full rate, few enough that
/// work space stays small beside the weights.
constexpr std::int64_t piece_tokens = 1024;

/// Bytes of logits that are made on the device at a time: 333 rows of a 50 288-word vocabulary in f32, so the rows of a
/// large decode batch are projected together and the head is read once.
constexpr std::int64_t logits_bytes = std::int64_t{64} << 20;

std::int64_t tokens_of(const SequenceInput& sequence, std::int64_t hidden_size) {
  if (!sequence.inputs_embeds.empty()) return static_cast<std::int64_t>(sequence.inputs_embeds.size()) / hidden_size;
  return static_cast<std::int64_t>(sequence.input_ids.size());
}

std::int64_t kept_positions(const SequenceInput& sequence, std::int64_t tokens) {
  if (sequence.logits_to_keep == all_positions) return tokens;
  return std::min(sequence.logits_to_keep, tokens);
}

/// Gives tensor this dtype and shape; it stays as it is where it has them.
void reuse(HostTensor& tensor, DType dtype, const Shape& shape) {
  if (tensor.view().empty() || tensor.view().dtype != dtype || tensor.view().shape != shape)
    tensor = HostTensor(dtype, shape);
}

}  // namespace

void ForwardPass::check(std::span<const SequenceInput> sequences, const Mamba2Cache& cache) {
  require(cache.layers() == config_.num_hidden_layers, "the cache was made for {} layers, the model has {}",
          cache.layers(), config_.num_hidden_layers);
  named_slots_.assign(static_cast<std::size_t>(cache.slots()), false);
  for (const SequenceInput& sequence : sequences) {
    require(0 <= sequence.slot && sequence.slot < cache.slots(), "slot {} is outside the cache's {}", sequence.slot,
            cache.slots());
    const auto slot = static_cast<std::size_t>(sequence.slot);
    require(!named_slots_[slot], "slot {} is named by two sequences of a batch", sequence.slot);
    named_slots_[slot] = true;
    require(sequence.logits_to_keep >= all_positions, "logits_to_keep is {}, expected 0 or more, or -1 for all",
            sequence.logits_to_keep);
    require(sequence.input_ids.empty() || sequence.inputs_embeds.empty(),
            "a sequence has both input_ids and inputs_embeds, expected one of them");
    require(sequence.inputs_embeds.size() % static_cast<std::size_t>(config_.hidden_size) == 0,
            "inputs_embeds holds {} numbers, expected a multiple of hidden_size = {}", sequence.inputs_embeds.size(),
            config_.hidden_size);
    for (const std::int32_t id : sequence.input_ids)
      require(0 <= id && id < config_.vocab_size, "token id {} is outside the vocabulary of {}", id,
              config_.vocab_size);
    constexpr std::int64_t longest = 2147483647;  // positions are 32-bit
    const std::int64_t length = cache.length(sequence.slot) + tokens_of(sequence, config_.hidden_size);
    require(length <= longest, "a sequence would be {} tokens long, expected at most {}", length, longest);
  }
}

/// A piece holds whole sequences where they fit.  Longer ones are cut at multiples of piece_tokens from where they
/// begin in this call, never where a neighbour leaves room, since where a sequence is cut can change its results by
/// rounding.
void ForwardPass::split(std::span<const SequenceInput> sequences) {
  // Dynamic RoPE turns all tokens of a call by the length that the sequence reaches with them: none may be cut.
  const bool whole = config_.has_attention() && config_.rope.scaling == RopeScaling::dynamic;
  segments_.clear();
  piece_ends_.clear();
  std::int64_t room = 0, row = 0;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const std::int64_t tokens = tokens_of(sequences[s], config_.hidden_size);
    for (std::int64_t begin = 0; begin < tokens;) {
      const std::int64_t count = whole ? tokens : std::min(piece_tokens, tokens - begin);
      if (count > room) {
        if (!segments_.empty()) piece_ends_.push_back(segments_.size());
        room = std::max(piece_tokens, count);
      }
      segments_.push_back({s, begin, count, row});
      begin += count;
      row += count;
      room -= count;
    }
  }
  if (!segments_.empty()) piece_ends_.push_back(segments_.size());
}

void ForwardPass::embed(std::span<const SequenceInput> sequences, std::span<const Segment> piece,
                        const Tensor& hidden) {
  ids_.values.clear();
  for (const Segment& segment : piece) {
    const SequenceInput& sequence = sequences[segment.sequence];
    const auto begin = sequence.input_ids.begin() + segment.begin;
    if (sequence.inputs_embeds.empty())
      ids_.values.insert(ids_.values.end(), begin, begin + segment.count);
    else
      ids_.values.insert(ids_.values.end(), static_cast<std::size_t>(segment.count), 0);  // overwritten below
  }
  backend_.run(Embedding{.ids = ids_.upload(backend_), .weight = weights_.embeddings.get(), .out = hidden});
  std::int64_t row = 0;
  for (const Segment& segment : piece) {
    const SequenceInput& sequence = sequences[segment.sequence];
    const Tensor rows = hidden.slice(0, row, segment.count);
    row += segment.count;
    if (sequence.inputs_embeds.empty()) continue;
    const HostTensor embeds(hidden.dtype, rows.shape);
    auto* first = const_cast<float*>(sequence.inputs_embeds.data()) + segment.begin * config_.hidden_size;
    convert(Tensor(first, DType::f32, rows.shape), embeds);
    backend_.upload(embeds.view(), rows);
  }
}

void ForwardPass::project_kept(std::span<const SequenceInput> sequences, std::span<const Segment> piece,
                               const Tensor& normed, const PreparedWeight& head, const Tensor& logits) {
  kept_rows_.values.clear();
  std::int64_t row = 0;
  for (const Segment& segment : piece) {
    const std::int64_t tokens = tokens_of(sequences[segment.sequence], config_.hidden_size);
    const std::int64_t first_kept = tokens - kept_positions(sequences[segment.sequence], tokens);
    for (std::int64_t i = std::max<std::int64_t>(0, first_kept - segment.begin); i < segment.count; ++i)
      kept_rows_.values.push_back(static_cast<std::int32_t>(row + i));
    row += segment.count;
  }
  const auto kept = static_cast<std::int64_t>(kept_rows_.values.size());
  if (kept == 0) return;
  const Tensor indices = kept_rows_.upload(backend_);
  const auto row_bytes = static_cast<std::int64_t>(bytes_for(normed.dtype, config_.vocab_size));
  const std::int64_t most_rows = std::max<std::int64_t>(1, logits_bytes / row_bytes);
  for (std::int64_t done = 0; done < kept;) {
    const std::int64_t count = std::min(most_rows, kept - done);
    const std::int64_t have = kept_.view.empty() ? 0 : kept_.view.size(0);
    if (have < count) {
      const std::int64_t rows = std::min(most_rows, std::max(count, 2 * have));
      kept_ = backend_.allocate(normed.dtype, {rows, config_.hidden_size});
      logits_ = backend_.allocate(normed.dtype, {rows, config_.vocab_size});
    }
    const Tensor gathered = kept_.view.slice(0, 0, count), projected = logits_.view.slice(0, 0, count);
    backend_.run(GatherRows{.x = normed, .rows = indices.slice(0, done, count), .out = gathered});
    backend_.run(Linear{.x = gathered, .weight = &head, .bias = {}, .add = {}, .out = projected});
    backend_.download(projected, logits.slice(0, logits_done_, count));
    logits_done_ += count;
    done += count;
  }
}

Batch ForwardPass::describe(std::span<const SequenceInput> sequences, std::span<const Segment> piece,
                            const Mamba2Cache& cache) {
  Batch batch;
  sequence_start_.values.assign(1, 0);
  slots_.values.clear();
  positions_.values.clear();
  for (const Segment& segment : piece) {
    const std::int64_t slot = sequences[segment.sequence].slot;
    for (std::int64_t i = 0; i < segment.count; ++i)
      positions_.values.push_back(static_cast<std::int32_t>(cache.length(slot) + i));
    batch.tokens += segment.count;
    batch.longest = std::max(batch.longest, segment.count);
    sequence_start_.values.push_back(static_cast<std::int32_t>(batch.tokens));
    slots_.values.push_back(static_cast<std::int32_t>(slot));
  }
  batch.sequences = static_cast<std::int64_t>(piece.size());
  batch.sequence_start = sequence_start_.upload(backend_);
  batch.slots = slots_.upload(backend_);
  batch.positions = positions_.upload(backend_);
  return batch;
}

void ForwardPass::run_piece(std::span<const SequenceInput> sequences, std::span<const Segment> piece,
                            Mamba2Cache& cache, const PreparedWeight* head, ForwardOutput& output) {
  const Batch batch = describe(sequences, piece, cache);
  if (batch.tokens > activations_.tokens)  // doubling: a batch that sequences join one by one seldom grows it
    make_room(activations_, std::max(batch.tokens, std::min(piece_tokens, 2 * activations_.tokens)), config_, backend_);

  const std::int64_t first_row = piece.front().first_row;
  const Tensor hidden = activations_.hidden.view.slice(0, 0, batch.tokens);
  const Tensor normed = activations_.normed.view.slice(0, 0, batch.tokens);
  auto keep_hidden = [&](std::int64_t index) {
    if (!output.hidden_states.empty())
      backend_.download(hidden,
                        output.hidden_states[static_cast<std::size_t>(index)].view().slice(0, first_row, batch.tokens));
  };
  embed(sequences, piece, hidden);
  keep_hidden(0);
  for (std::int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    forward_layer(i, weights_.layers[static_cast<std::size_t>(i)], config_, activations_, cache.layer(i), batch,
                  backend_);
    keep_hidden(i + 1);
  }
  backend_.run(RmsNorm{.x = hidden, .weight = weights_.norm_f, .eps = config_.layer_norm_epsilon, .out = normed});
  if (!output.last_hidden_state.view().empty())
    backend_.download(normed, output.last_hidden_state.view().slice(0, first_row, batch.tokens));
  if (head != nullptr) project_kept(sequences, piece, normed, *head, output.logits.view());
  for (const Segment& segment : piece) cache.advance(sequences[segment.sequence].slot, segment.count);
}

void ForwardPass::run(std::span<const SequenceInput> sequences, Mamba2Cache& cache, const ForwardOptions& options,
                      const PreparedWeight* head, ForwardOutput& output) {
  check(sequences, cache);
  std::int64_t tokens = 0, kept = 0, longest = 0;
  for (const SequenceInput& sequence : sequences) {
    const std::int64_t count = tokens_of(sequence, config_.hidden_size);
    tokens += count;
    kept += kept_positions(sequence, count);
    longest = std::max(longest, cache.length(sequence.slot) + count);
  }
  cache.reserve(longest);

  const DType dtype = backend_.activation_dtype();
  if (head != nullptr) reuse(output.logits, dtype, {kept, config_.vocab_size});
  if (options.output_last_hidden_state)
    reuse(output.last_hidden_state, dtype, {tokens, config_.hidden_size});
  else
    output.last_hidden_state = {};
  output.hidden_states.resize(options.output_hidden_states ? static_cast<std::size_t>(config_.num_hidden_layers) + 1
                                                           : 0);
  for (HostTensor& states : output.hidden_states) reuse(states, dtype, {tokens, config_.hidden_size});
  logits_done_ = 0;
  split(sequences);
  std::size_t begin = 0;
  for (const std::size_t end : piece_ends_) {
    run_piece(sequences, std::span(segments_).subspan(begin, end - begin), cache, head, output);
    begin = end;
  }
}

}  // namespace mamba2
