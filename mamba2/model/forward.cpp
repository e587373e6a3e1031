#include "mamba2/model/forward.h"

#include <algorithm>
#include <cmath>
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

/// (tokens, heads * head_dim) seen as (tokens, heads, head_dim).
Tensor as_heads(const Tensor& x, std::int64_t heads, std::int64_t head_dim) {
  Tensor view = x;
  view.shape = Shape{x.size(0), heads, head_dim};
  view.strides = {x.stride(0), head_dim, 1};
  return view;
}

/// Figure 6 of Dao and Gu 2024: project, convolve, scan, norm, project back onto the residual stream.
void forward_mixer(const MixerWeights& w, const Mamba2Config& c, const Activations& a, LayerState& state,
                   const Batch& batch, Backend& backend) {
  auto rows = [&](const DeviceTensor& tensor) { return tensor.view.slice(0, 0, batch.tokens); };
  const Tensor hidden = rows(a.hidden);
  backend.run(Linear{
      .x = rows(a.normed), .weight = w.in_proj.get(), .bias = w.in_proj_bias, .add = {}, .out = rows(a.projected)});
  backend.run(Mixer{.projected = rows(a.projected),
                    .conv_weight = w.conv1d,
                    .conv_bias = w.conv1d_bias,
                    .act = c.hidden_act,
                    .dt_bias = w.dt_bias,
                    .A_log = w.A_log,
                    .D = w.D,
                    .limit = c.time_step_limit,
                    .n_groups = c.n_groups,
                    .norm_weight = w.norm,
                    .norm_group_size = c.norm_group_size(),
                    .norm_eps = c.gated_norm_epsilon,
                    .order = c.gate_order,
                    .batch = batch,
                    .conv_state = state.conv_state,
                    .ssm_state = state.ssm_state,
                    .xBC = rows(a.xBC),
                    .dt = rows(a.dt),
                    .y = rows(a.y),
                    .out = rows(a.mixed)});
  backend.run(
      Linear{.x = rows(a.mixed), .weight = w.out_proj.get(), .bias = w.out_proj_bias, .add = hidden, .out = hidden});
}

void forward_attention(const AttentionWeights& w, const Mamba2Config& c, const Activations& a, LayerState& state,
                       const Batch& batch, Backend& backend) {
  auto rows = [&](const DeviceTensor& tensor) { return tensor.view.slice(0, 0, batch.tokens); };
  const Tensor hidden = rows(a.hidden);
  Tensor qkv = rows(a.qkv);
  backend.run(Linear{.x = rows(a.normed), .weight = w.in_proj.get(), .bias = w.in_proj_bias, .add = {}, .out = qkv});
  if (c.attention_conv_kernel > 0) {
    backend.run(CausalConv{.x = qkv,
                           .weight = w.conv1d,
                           .bias = w.conv1d_bias,
                           .act = Activation::none,
                           .batch = batch,
                           .conv_state = state.conv_state,
                           .out = rows(a.qkv_conv)});
    qkv = rows(a.qkv_conv);
  }
  const std::int64_t q_width = c.num_attention_heads * c.attention_head_dim;
  const std::int64_t kv_width = c.num_key_value_heads * c.attention_head_dim;
  const Tensor q = as_heads(qkv.slice(1, 0, q_width), c.num_attention_heads, c.attention_head_dim);
  const Tensor k = as_heads(qkv.slice(1, q_width, kv_width), c.num_key_value_heads, c.attention_head_dim);
  const Tensor v = as_heads(qkv.slice(1, q_width + kv_width, kv_width), c.num_key_value_heads, c.attention_head_dim);
  if (c.rope.rotary_dim > 0) {
    backend.run(Rope{.x = q, .batch = batch, .parameters = c.rope});
    backend.run(Rope{.x = k, .batch = batch, .parameters = c.rope});
  }
  const double scale =
      c.attention_scale > 0 ? c.attention_scale : 1.0 / std::sqrt(static_cast<double>(c.attention_head_dim));
  backend.run(Attention{.q = q,
                        .k = k,
                        .v = v,
                        .scale = scale,
                        .batch = batch,
                        .k_cache = state.k_cache,
                        .v_cache = state.v_cache,
                        .out = as_heads(rows(a.attended), c.num_attention_heads, c.attention_head_dim)});
  backend.run(
      Linear{.x = rows(a.attended), .weight = w.out_proj.get(), .bias = w.out_proj_bias, .add = hidden, .out = hidden});
}

void forward_mlp(const MlpWeights& w, const Mamba2Config& c, const Activations& a, const Batch& batch,
                 Backend& backend) {
  auto rows = [&](const DeviceTensor& tensor) { return tensor.view.slice(0, 0, batch.tokens); };
  const std::int64_t width = c.padded_mlp_size();
  const Tensor hidden = rows(a.hidden), both = rows(a.mlp_in);
  backend.run(Linear{.x = rows(a.normed), .weight = w.fc1.get(), .bias = w.fc1_bias, .add = {}, .out = both});
  backend.run(GatedActivation{.value = both.slice(1, 0, width),
                              .gate = both.slice(1, width, width),
                              .act = c.hidden_act,
                              .out = rows(a.mlp_out)});
  backend.run(Linear{.x = rows(a.mlp_out), .weight = w.fc2.get(), .bias = w.fc2_bias, .add = hidden, .out = hidden});
}

void forward_layer(std::int64_t index, const LayerWeights& w, const Mamba2Config& c, const Activations& a,
                   LayerState& state, const Batch& batch, Backend& backend) {
  const Tensor hidden = a.hidden.view.slice(0, 0, batch.tokens), normed = a.normed.view.slice(0, 0, batch.tokens);
  backend.run(RmsNorm{.x = hidden, .weight = w.norm, .eps = c.layer_norm_epsilon, .out = normed});
  if (c.is_attention_layer(index))
    forward_attention(w.attention, c, a, state, batch, backend);
  else
    forward_mixer(w.mixer, c, a, state, batch, backend);
  if (!c.has_mlp()) return;
  backend.run(RmsNorm{.x = hidden, .weight = w.norm2, .eps = c.layer_norm_epsilon, .out = normed});
  forward_mlp(w.mlp, c, a, batch, backend);
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

void ForwardPass::make_room(std::int64_t tokens) {
  Activations& a = activations_;
  if (tokens <= a.tokens) return;
  const Mamba2Config& c = config_;
  const DType dtype = backend_.activation_dtype();
  auto make = [&](DeviceTensor& tensor, std::int64_t width) { tensor = backend_.allocate(dtype, {tokens, width}); };
  make(a.hidden, c.hidden_size);
  make(a.normed, c.hidden_size);
  make(a.projected, c.in_proj_size());
  make(a.xBC, c.conv_dim());
  make(a.dt, c.num_heads);
  make(a.y, c.intermediate_size());
  make(a.mixed, c.mixer_mlp_size + c.intermediate_size());
  if (c.has_attention()) {
    make(a.qkv, c.attention_qkv_size());
    if (c.attention_conv_kernel > 0) make(a.qkv_conv, c.attention_qkv_size());
    make(a.attended, c.num_attention_heads * c.attention_head_dim);
  }
  if (c.has_mlp()) {
    make(a.mlp_in, 2 * c.padded_mlp_size());
    make(a.mlp_out, c.padded_mlp_size());
  }
  a.tokens = tokens;
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
  make_room(start.back());
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
