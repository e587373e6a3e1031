#include "mamba2/model/forward.h"

#include <algorithm>
#include <set>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

/// Tokens that go through the layers at a time: enough for a matrix product to run at its full rate, few enough that
/// work space stays small beside the weights.
constexpr std::int64_t piece_tokens = 1024;

/// Positions that are projected to logits at a time: 64 rows of a 256 000-word vocabulary are 64 MB in f32.
constexpr std::int64_t logits_rows = 64;

/// The batch and the device memory of its descriptors.
struct DeviceBatch {
  DeviceTensor sequence_start, slots, positions;
  Batch batch;
};

DeviceTensor upload_integers(Backend& backend, std::vector<std::int32_t>& values) {
  return backend.upload(Tensor(values.data(), DType::i32, {static_cast<std::int64_t>(values.size())}), DType::i32);
}

std::int64_t tokens_of(const SequenceInput& sequence, std::int64_t hidden_size) {
  if (!sequence.inputs_embeds.empty()) return static_cast<std::int64_t>(sequence.inputs_embeds.size()) / hidden_size;
  return static_cast<std::int64_t>(sequence.input_ids.size());
}

std::int64_t kept_positions(const SequenceInput& sequence, std::int64_t tokens) {
  if (sequence.logits_to_keep == all_positions) return tokens;
  return std::min(sequence.logits_to_keep, tokens);
}

}  // namespace

void ForwardPass::check(std::span<const SequenceInput> sequences, const Mamba2Cache& cache) const {
  require(cache.layers() == config_.num_hidden_layers, "the cache was made for {} layers, the model has {}",
          cache.layers(), config_.num_hidden_layers);
  std::set<std::int64_t> slots;
  for (const SequenceInput& sequence : sequences) {
    require(0 <= sequence.slot && sequence.slot < cache.slots(), "slot {} is outside the cache's {}", sequence.slot,
            cache.slots());
    require(slots.insert(sequence.slot).second, "slot {} is named by two sequences of a batch", sequence.slot);
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

std::vector<std::vector<ForwardPass::Segment>> ForwardPass::split(std::span<const SequenceInput> sequences) const {
  // Dynamic RoPE turns all tokens of a call by the length that the sequence reaches with them: none may be cut.
  const bool whole = config_.has_attention() && config_.rope.scaling == RopeScaling::dynamic;
  std::vector<std::vector<Segment>> pieces;
  std::int64_t room = 0, row = 0;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const std::int64_t tokens = tokens_of(sequences[s], config_.hidden_size);
    for (std::int64_t begin = 0; begin < tokens;) {
      if (room == 0) {
        pieces.emplace_back();
        room = piece_tokens;
      }
      const std::int64_t count = whole ? tokens : std::min(room, tokens - begin);
      pieces.back().push_back({s, begin, count, row});
      begin += count;
      row += count;
      room -= std::min(room, count);
    }
  }
  return pieces;
}

void ForwardPass::embed(std::span<const SequenceInput> sequences, std::span<const Segment> piece,
                        const Tensor& hidden) {
  std::int64_t row = 0;
  for (const Segment& segment : piece) {
    const SequenceInput& sequence = sequences[segment.sequence];
    const Tensor rows = hidden.slice(0, row, segment.count);
    row += segment.count;
    if (sequence.inputs_embeds.empty()) {
      std::vector<std::int32_t> ids(sequence.input_ids.begin() + segment.begin,
                                    sequence.input_ids.begin() + segment.begin + segment.count);
      activations_.ids = upload_integers(backend_, ids);
      backend_.run(Embedding{.ids = activations_.ids, .weight = weights_.embeddings.get(), .out = rows});
      continue;
    }
    const HostTensor embeds(hidden.dtype, rows.shape);
    auto* first = const_cast<float*>(sequence.inputs_embeds.data()) + segment.begin * config_.hidden_size;
    convert(Tensor(first, DType::f32, rows.shape), embeds);
    backend_.upload(embeds.view(), rows);
  }
}

void ForwardPass::project_kept(std::span<const SequenceInput> sequences, std::span<const Segment> piece,
                               const Tensor& normed, const PreparedWeight& head, HostTensor& logits) {
  std::vector<std::int32_t> kept;
  std::int64_t row = 0;
  for (const Segment& segment : piece) {
    const std::int64_t tokens = tokens_of(sequences[segment.sequence], config_.hidden_size);
    const std::int64_t first_kept = tokens - kept_positions(sequences[segment.sequence], tokens);
    for (std::int64_t i = 0; i < segment.count; ++i, ++row)
      if (segment.begin + i >= first_kept) kept.push_back(static_cast<std::int32_t>(row));
  }
  for (std::size_t done = 0; done < kept.size();) {
    const auto count = std::min<std::int64_t>(logits_rows, static_cast<std::int64_t>(kept.size() - done));
    if (kept_.view.empty() || kept_.view.size(0) < count) {
      kept_ = backend_.allocate(normed.dtype, {count, config_.hidden_size});
      logits_ = backend_.allocate(normed.dtype, {count, config_.vocab_size});
    }
    const Tensor rows(kept.data() + done, DType::i32, {count});
    const DeviceTensor indices = backend_.upload(rows, DType::i32);
    const Tensor gathered = kept_.view.slice(0, 0, count), projected = logits_.view.slice(0, 0, count);
    backend_.run(GatherRows{.x = normed, .rows = indices, .out = gathered});
    backend_.run(Linear{.x = gathered, .weight = &head, .bias = {}, .add = {}, .out = projected});
    backend_.download(projected, logits.view().slice(0, logits_done_, count));
    logits_done_ += count;
    done += static_cast<std::size_t>(count);
  }
}

void ForwardPass::run_piece(std::span<const SequenceInput> sequences, std::span<const Segment> piece,
                            Mamba2Cache& cache, const PreparedWeight* head, ForwardOutput& output) {
  std::vector<std::int32_t> start{0}, slots, positions;
  DeviceBatch made;
  for (const Segment& segment : piece) {
    const std::int64_t slot = sequences[segment.sequence].slot;
    for (std::int64_t i = 0; i < segment.count; ++i)
      positions.push_back(static_cast<std::int32_t>(cache.length(slot) + i));
    start.push_back(static_cast<std::int32_t>(start.back() + segment.count));
    slots.push_back(static_cast<std::int32_t>(slot));
    made.batch.longest = std::max(made.batch.longest, segment.count);
  }
  make_room(activations_, start.back(), config_, backend_);
  made.sequence_start = upload_integers(backend_, start);
  made.slots = upload_integers(backend_, slots);
  made.positions = upload_integers(backend_, positions);
  Batch& batch = made.batch;
  batch.tokens = start.back();
  batch.sequences = static_cast<std::int64_t>(slots.size());
  batch.sequence_start = made.sequence_start;
  batch.slots = made.slots;
  batch.positions = made.positions;

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
  if (head != nullptr) project_kept(sequences, piece, normed, *head, output.logits);
  for (const Segment& segment : piece) cache.advance(sequences[segment.sequence].slot, segment.count);
}

ForwardOutput ForwardPass::run(std::span<const SequenceInput> sequences, Mamba2Cache& cache,
                               const ForwardOptions& options, const PreparedWeight* head) {
  check(sequences, cache);
  std::int64_t tokens = 0, kept = 0, longest = 0;
  for (const SequenceInput& sequence : sequences) {
    const std::int64_t count = tokens_of(sequence, config_.hidden_size);
    tokens += count;
    kept += kept_positions(sequence, count);
    longest = std::max(longest, cache.length(sequence.slot) + count);
  }
  cache.reserve(longest);

  ForwardOutput output;
  const DType dtype = backend_.activation_dtype();
  if (head != nullptr) output.logits = HostTensor(dtype, {kept, config_.vocab_size});
  if (options.output_last_hidden_state) output.last_hidden_state = HostTensor(dtype, {tokens, config_.hidden_size});
  if (options.output_hidden_states)
    for (std::int64_t i = 0; i <= config_.num_hidden_layers; ++i)
      output.hidden_states.emplace_back(dtype, Shape{tokens, config_.hidden_size});
  logits_done_ = 0;
  for (const std::vector<Segment>& piece : split(sequences)) run_piece(sequences, piece, cache, head, output);
  return output;
}

}  // namespace mamba2
