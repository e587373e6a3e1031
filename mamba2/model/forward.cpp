#include "mamba2/model/forward.h"

#include <algorithm>
#include <array>
#include <bit>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

/// Bytes of logits that are made on the device at a time: 333 rows of a 50 288-word vocabulary in f32, so the rows of a
/// large decode batch are projected together and the head is read once.
constexpr std::int64_t logits_bytes = std::int64_t{64} << 20;

std::int64_t tokens_of(const SequenceInput& sequence, std::int64_t hidden_size) {
  if (!sequence.inputs_embeds.empty()) return static_cast<std::int64_t>(sequence.inputs_embeds.size()) / hidden_size;
  return static_cast<std::int64_t>(sequence.input_ids.size());
}

std::int64_t kept_positions(const SequenceInput& sequence, std::int64_t tokens) {
  if (sequence.next != nullptr) return 0;
  if (sequence.logits_to_keep == all_positions) return tokens;
  return std::min(sequence.logits_to_keep, tokens);
}

/// The id that the host need not know.
bool continues(const SequenceInput& sequence) {
  return sequence.input_ids.size() == 1 && sequence.input_ids[0] == chosen_token;
}

/// Gives tensor this dtype and shape; it stays as it is where it has them.
void reuse(HostTensor& tensor, DType dtype, const Shape& shape) {
  if (tensor.view().empty() || tensor.view().dtype != dtype || tensor.view().shape != shape)
    tensor = HostTensor(dtype, shape);
}

}  // namespace

ForwardPass::ForwardPass(const ModelPart& part, const ModelWeights& weights, Backend& backend)
    : part_(part),
      config_(part.config),
      weights_(weights),
      backend_(backend),
      piece_tokens_(backend.piece_tokens(activation_bytes_per_token(part, backend))) {}

void ForwardPass::check_sequences(std::span<const SequenceInput> sequences, const Mamba2Cache& cache) {
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
    if (!continues(sequence))
      for (const std::int32_t id : sequence.input_ids)
        require(0 <= id && id < config_.vocab_size, "token id {} is outside the vocabulary of {}", id,
                config_.vocab_size);
    constexpr std::int64_t longest = 2147483647;  // positions are 32-bit
    const std::int64_t length = cache.length(sequence.slot) + tokens_of(sequence, config_.hidden_size);
    require(length <= longest, "a sequence would be {} tokens long, expected at most {}", length, longest);
  }
}

/// What sequences that ask for a token, or go on from one chosen, must fulfil; and which chosen one each goes on from.
void ForwardPass::check_tokens(std::span<const SequenceInput> sequences) {
  going_on_.clear();
  auto next = chosen_slots_.begin();  // mostly they come in the order of the call before
  for (const SequenceInput& sequence : sequences) {
    going_on_.push_back(known_to_host);
    if (continues(sequence)) {
      auto found = std::find(next, chosen_slots_.end(), sequence.slot);
      if (found == chosen_slots_.end()) found = std::find(chosen_slots_.begin(), next, sequence.slot);
      require(found != chosen_slots_.end() && *found == sequence.slot,
              "slot {} goes on from a token that the call before did not choose", sequence.slot);
      going_on_.back() = found - chosen_slots_.begin();
      next = found + 1;
    }
    if (sequence.next == nullptr) continue;
    require(backend_.chooses_tokens(), "the {} backend does not choose tokens", backend_.name());
    require(tokens_of(sequence, config_.hidden_size) > 0, "slot {} asks for a token and feeds none", sequence.slot);
  }
}

/// Puts the tokens that sequences go on from where they stay until every piece has read them.
void ForwardPass::carry_tokens() {
  const std::int64_t count = std::ssize(chosen_slots_);
  all_go_on_ = !going_on_.empty() && std::ssize(going_on_) == count && count <= most_tokens_;
  for (std::size_t i = 0; all_go_on_ && i < going_on_.size(); ++i)
    all_go_on_ = going_on_[i] == static_cast<std::int64_t>(i);
  const bool any = std::ranges::any_of(going_on_, [](std::int64_t place) { return place != known_to_host; });
  if (all_go_on_ || !any) return;
  if (carried_.view.empty() || carried_.view.size(0) < count)
    carried_ = backend_.allocate(DType::i32, {std::max<std::int64_t>(64, 2 * count)});
  backend_.copy(tokens_.view.slice(0, 0, count), carried_.view.slice(0, 0, count));
}

/// A piece holds whole sequences where they fit.  Longer ones are cut at multiples of most_tokens_ from where they
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
      const std::int64_t count = whole ? tokens : std::min(most_tokens_, tokens - begin);
      if (count > room) {
        if (!segments_.empty()) piece_ends_.push_back(segments_.size());
        room = std::max(most_tokens_, count);
      }
      segments_.push_back({s, begin, count, row});
      begin += count;
      row += count;
      room -= count;
    }
  }
  if (!segments_.empty()) piece_ends_.push_back(segments_.size());
}

/// The ids of a piece, on the device: from the host, and where only the device knows them from there.
Tensor ForwardPass::ids_of(std::span<const SequenceInput> sequences, std::span<const Segment> piece) {
  if (all_go_on_) return tokens_.view.slice(0, 0, static_cast<std::int64_t>(piece.size()));
  ids_.values.clear();
  for (const Segment& segment : piece) {
    const SequenceInput& sequence = sequences[segment.sequence];
    const auto begin = sequence.input_ids.begin() + segment.begin;
    if (sequence.inputs_embeds.empty() && !continues(sequence))
      ids_.values.insert(ids_.values.end(), begin, begin + segment.count);
    else
      ids_.values.insert(ids_.values.end(), static_cast<std::size_t>(segment.count), 0);  // overwritten later
  }
  const Tensor ids = ids_.upload(backend_);
  std::int64_t row = 0;
  for (std::size_t i = 0; i < piece.size();) {
    const std::int64_t place = going_on_[piece[i].sequence];
    if (place == known_to_host) {
      row += piece[i++].count;
      continue;
    }
    std::int64_t together = 1;  // that stand side by side here and there: a token each
    while (++i < piece.size() && going_on_[piece[i].sequence] == place + together) ++together;
    backend_.copy(carried_.view.slice(0, place, together), ids.slice(0, row, together));
    ids_.forget();
    row += together;
  }
  return ids;
}

void ForwardPass::embed(std::span<const SequenceInput> sequences, std::span<const Segment> piece,
                        const Tensor& hidden) {
  backend_.run(Embedding{.ids = ids_of(sequences, piece), .weight = weights_.embeddings.get(), .out = hidden});
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

ForwardPass::Kept ForwardPass::find_kept(std::span<const SequenceInput> sequences, std::span<const Segment> piece,
                                         const Batch& batch) {
  kept_rows_.values.clear();
  requests_.clear();
  std::vector<std::int32_t> choosing;
  std::int64_t row = 0;
  for (const Segment& segment : piece) {
    const SequenceInput& sequence = sequences[segment.sequence];
    const std::int64_t tokens = tokens_of(sequence, config_.hidden_size);
    const std::int64_t first_kept = tokens - kept_positions(sequence, tokens);
    for (std::int64_t i = std::max<std::int64_t>(0, first_kept - segment.begin); i < segment.count; ++i)
      kept_rows_.values.push_back(static_cast<std::int32_t>(row + i));
    row += segment.count;
    if (sequence.next == nullptr || segment.begin + segment.count < tokens) continue;
    choosing.push_back(static_cast<std::int32_t>(row - 1));
    requests_.push_back(sequence.next);
  }
  std::vector<std::int32_t>& rows = kept_rows_.values;
  Kept kept;
  kept.for_host = std::ssize(rows);
  kept.for_choice = std::ssize(choosing);
  rows.insert(rows.end(), choosing.begin(), choosing.end());
  bool every_row = std::ssize(rows) == batch.tokens;
  for (std::size_t i = 0; every_row && i < rows.size(); ++i) every_row = rows[i] == static_cast<std::int32_t>(i);
  if (!every_row) kept.rows = kept_rows_.upload(backend_);
  if (kept.for_choice > 0) describe_requests(kept);
  if (kept.for_choice == batch.tokens) kept.positions = batch.positions;
  return kept;
}

void ForwardPass::describe_requests(Kept& kept) {
  std::vector<std::int32_t>&rules = rules_.values, &history = history_.values;
  rules.clear();
  steps_.values.clear();
  history.clear();
  std::size_t longest = 0;
  for (const TokenRequest* request : requests_) {
    const auto words = std::bit_cast<std::array<std::int32_t, token_rule_words>>(request->rule);
    rules.insert(rules.end(), words.begin(), words.end());
    steps_.values.push_back(static_cast<std::int32_t>(request->step));
    if (request->rule.repetition_penalty != 1) longest = std::max(longest, request->history.size());
  }
  kept.rules = rules_.upload(backend_).reshape({kept.for_choice, token_rule_words});
  kept.steps = steps_.upload(backend_);
  if (longest == 0) return;
  // Of few different lengths, so that few steps differ in shape.
  constexpr std::size_t least = 64;
  const std::size_t width = std::bit_ceil(std::max(longest, least));
  std::size_t end = 0;  // of a request's row
  for (const TokenRequest* request : requests_) {
    if (request->rule.repetition_penalty != 1)
      history.insert(history.end(), request->history.begin(), request->history.end());
    history.resize(end += width, -1);
  }
  kept.history = history_.upload(backend_).reshape({kept.for_choice, static_cast<std::int64_t>(width)});
}

void ForwardPass::project_kept(const Kept& kept, const Tensor& normed, const PreparedWeight& head,
                               const Tensor& logits) {
  const std::int64_t all = kept.for_host + kept.for_choice;
  const auto row_bytes = static_cast<std::int64_t>(bytes_for(normed.dtype, config_.vocab_size));
  const std::int64_t most_rows = std::max<std::int64_t>(1, logits_bytes / row_bytes);
  for (std::int64_t done = 0; done < all;) {
    const std::int64_t count = std::min(most_rows, all - done);
    const std::int64_t have = kept_.view.empty() ? 0 : kept_.view.size(0);
    if (have < count) {
      const std::int64_t rows = std::min(most_rows, std::max(count, 2 * have));
      kept_ = backend_.allocate(normed.dtype, {rows, config_.hidden_size});
      logits_ = backend_.allocate(normed.dtype, {rows, config_.vocab_size});
    }
    Tensor rows = kept_.view.slice(0, 0, count);
    if (kept.rows.empty())
      rows = normed.slice(0, done, count);
    else
      backend_.run(GatherRows{.x = normed, .rows = kept.rows.slice(0, done, count), .out = rows});
    const Tensor projected = logits_.view.slice(0, 0, count);
    backend_.run(Linear{.x = rows, .weight = &head, .bias = {}, .add = {}, .out = projected});
    const std::int64_t on_host = std::clamp<std::int64_t>(kept.for_host - done, 0, count);
    if (on_host > 0) {
      backend_.download(projected.slice(0, 0, on_host), logits.slice(0, logits_done_, on_host));
      logits_done_ += on_host;
    }
    done += count;
    if (on_host < count) choose(kept, projected.slice(0, on_host, count - on_host), done - kept.for_host);
  }
}

/// The tokens of those rows up to `end` that logits are of.
void ForwardPass::choose(const Kept& kept, const Tensor& logits, std::int64_t end) {
  const std::int64_t count = logits.size(0);
  auto part = [&](const Tensor& tensor) { return tensor.empty() ? tensor : tensor.slice(0, end - count, count); };
  backend_.run(ChooseToken{.logits = logits,
                           .rules = part(kept.rules),
                           .steps = part(kept.steps),
                           .history = part(kept.history),
                           .positions = part(kept.positions),
                           .out = tokens_.view.slice(0, tokens_done_, count)});
  tokens_done_ += count;
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

/// Sequences of one token at the piece's beginning may leave their inputs pending; all others find their states up to
/// date.
void ForwardPass::plan_mixers(std::span<const Segment> piece, const Batch& batch, Mamba2Cache& cache) {
  const std::span<const std::int32_t> slots(slots_.values);
  const auto first_longer = std::ranges::find_if(piece, [](const Segment& segment) { return segment.count > 1; });
  const std::int64_t single = first_longer - piece.begin(), longer = batch.sequences - single;
  const std::int64_t room = backend_.pending_room({.sequences = single,
                                                   .num_heads = config_.num_heads,
                                                   .head_dim = config_.head_dim,
                                                   .n_groups = config_.n_groups,
                                                   .state_size = config_.state_size,
                                                   .conv_kernel = config_.conv_kernel,
                                                   .act = config_.hidden_act,
                                                   .state_dtype = cache.state_dtype()});
  mixer_parts_.clear();
  if (room == 0) {
    cache.settle(slots);
    mixer_parts_.push_back({.batch = batch});
    return;
  }
  cache.settle(slots.subspan(static_cast<std::size_t>(single)));
  cache.leave_pending(slots.first(static_cast<std::size_t>(single)), room);
  mixer_parts_.push_back({.batch = {.tokens = single,
                                    .sequences = single,
                                    .longest = 1,
                                    .sequence_start = batch.sequence_start.slice(0, 0, single + 1),
                                    .slots = batch.slots.slice(0, 0, single),
                                    .positions = batch.positions.slice(0, 0, single)},
                          .leaves_pending = true});
  if (longer == 0) return;
  later_start_.values.clear();
  for (std::size_t i = static_cast<std::size_t>(single); i < sequence_start_.values.size(); ++i)
    later_start_.values.push_back(sequence_start_.values[i] - static_cast<std::int32_t>(single));
  const std::int64_t tokens = batch.tokens - single;
  mixer_parts_.push_back({.batch = {.tokens = tokens,
                                    .sequences = longer,
                                    .longest = batch.longest,
                                    .sequence_start = later_start_.upload(backend_),
                                    .slots = batch.slots.slice(0, single, longer),
                                    .positions = batch.positions.slice(0, single, tokens)},
                          .first_row = single});
}

void ForwardPass::run_piece(std::span<const SequenceInput> sequences, std::span<const Segment> piece,
                            Mamba2Cache& cache, const PreparedWeight* head, ForwardOutput& output) {
  const Batch batch = describe(sequences, piece, cache);
  plan_mixers(piece, batch, cache);
  const Kept kept = head != nullptr ? find_kept(sequences, piece, batch) : Kept{};
  if (batch.tokens > activations_.tokens)  // doubling: a batch that sequences join one by one seldom grows it
    make_room(activations_, std::max(batch.tokens, std::min(most_tokens_, 2 * activations_.tokens)), part_, backend_);

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
  // All at once, unless what is between them is wanted.
  const std::int64_t layers = config_.num_hidden_layers, together = output.hidden_states.empty() ? layers : 1;
  for (std::int64_t i = 0; i < layers; i += together) {
    forward_layers(i, i + together, weights_, part_, activations_, cache, batch, mixer_parts_, backend_);
    keep_hidden(i + together);
  }
  backend_.run(RmsNorm{.x = hidden, .weight = weights_.norm_f, .eps = config_.layer_norm_epsilon, .out = normed});
  if (!output.last_hidden_state.view().empty())
    backend_.download(normed, output.last_hidden_state.view().slice(0, first_row, batch.tokens));
  if (head != nullptr) project_kept(kept, normed, *head, output.logits.view());
  if (kept.for_choice > 0) steps_.advance();
  if (!kept.positions.empty()) positions_.advance();
  for (const Segment& segment : piece) cache.advance(sequences[segment.sequence].slot, segment.count);
}

void ForwardPass::check(std::span<const SequenceInput> sequences, const Mamba2Cache& cache,
                        const ForwardOptions& options) {
  require(options.piece_tokens >= 0, "piece_tokens is {}, expected 0 or more", options.piece_tokens);
  check_sequences(sequences, cache);
  check_tokens(sequences);
}

void ForwardPass::run(std::span<const SequenceInput> sequences, Mamba2Cache& cache, const ForwardOptions& options,
                      const PreparedWeight* head, ForwardOutput& output) {
  check(sequences, cache, options);
  most_tokens_ = options.piece_tokens > 0 ? options.piece_tokens : piece_tokens_;
  std::int64_t tokens = 0, kept = 0, longest = 0, chosen = 0;
  for (const SequenceInput& sequence : sequences) {
    const std::int64_t count = tokens_of(sequence, config_.hidden_size);
    tokens += count;
    kept += kept_positions(sequence, count);
    chosen += sequence.next != nullptr ? 1 : 0;
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
  carry_tokens();
  if (chosen > 0 && (tokens_.view.empty() || tokens_.view.size(0) < chosen))
    tokens_ = backend_.allocate(DType::i32, {std::max<std::int64_t>(64, 2 * chosen)});
  logits_done_ = 0;
  tokens_done_ = 0;
  chosen_slots_.clear();
  split(sequences);
  try {
    run_pieces(sequences, cache, head, output);
    if (chosen > 0 && backend_.ranks() > 1) backend_.run(Broadcast{.x = tokens_.view.slice(0, 0, chosen)});
    if (chosen > 0) backend_.start_download(tokens_.view.slice(0, 0, chosen));
  } catch (...) {
    forget_integers();
    throw;
  }
  if (chosen > 0) unfinished_.push_back(chosen);
  for (const SequenceInput& sequence : sequences)
    if (sequence.next != nullptr) chosen_slots_.push_back(sequence.slot);
}

void ForwardPass::run_pieces(std::span<const SequenceInput> sequences, Mamba2Cache& cache, const PreparedWeight* head,
                             ForwardOutput& output) {
  std::size_t begin = 0;
  for (const std::size_t end : piece_ends_) {
    run_piece(sequences, std::span(segments_).subspan(begin, end - begin), cache, head, output);
    begin = end;
  }
}

void ForwardPass::forget_integers() {
  for (DeviceIntegers* integers :
       {&ids_, &sequence_start_, &later_start_, &slots_, &positions_, &kept_rows_, &rules_, &steps_, &history_})
    integers->forget();
}

void ForwardPass::finish(std::vector<std::int32_t>& next_tokens) {
  next_tokens.clear();
  if (unfinished_.empty()) return;
  next_tokens.resize(static_cast<std::size_t>(unfinished_.front()));
  unfinished_.pop_front();
  backend_.finish_download(Tensor(next_tokens.data(), DType::i32, {std::ssize(next_tokens)}));
}

}  // namespace mamba2
