#pragma once

#include <deque>
#include <span>
#include <vector>

#include "mamba2/model/cache.h"
#include "mamba2/model/device_integers.h"
#include "mamba2/model/layers.h"
#include "mamba2/model/modeling_mamba2.h"
#include "mamba2/model/weights.h"

namespace mamba2 {

/// A forward pass over the parts of a model: splits what is to be fed into pieces of bounded size, runs the layers over
/// each and collects what was asked for.  Its buffers live as long as it does: a step no larger than one before
/// allocates nothing.  Where the model is split, each rank has one, and all are given the same: what they compute is
/// the same on all ranks, and the tokens that they choose are rank 0's.
class ForwardPass {
 public:
  ForwardPass(const ModelPart& part, const ModelWeights& weights, Backend& backend);

  /// Tokens that go through the layers at a time, where a call asks for nothing else.
  std::int64_t piece_tokens() const { return piece_tokens_; }

  /// What run() does first: throws Error for what is wrong with its arguments.
  void check(std::span<const SequenceInput> sequences, const Mamba2Cache& cache, const ForwardOptions& options);
  /// head: null for no logits.  Tensors of output that have the right shape already are written in place.
  /// Tokens that sequences ask for are under way when it returns.
  void run(std::span<const SequenceInput> sequences, Mamba2Cache& cache, const ForwardOptions& options,
           const PreparedWeight* head, ForwardOutput& output);
  /// Passes whose tokens nobody has fetched yet.
  std::size_t unfinished() const { return unfinished_.size(); }
  /// The tokens of the oldest of them, in the order of the sequences that asked.
  void finish(std::vector<std::int32_t>& next_tokens);

 private:
  /// Tokens [begin, begin + count) of a sequence that are part of a piece; first_row is where they stand in the output.
  struct Segment {
    std::size_t sequence;
    std::int64_t begin, count, first_row;
  };

  /// The rows of a piece that are projected, as they stand in it.
  struct Kept {
    std::int64_t for_host = 0;    // rows whose logits are downloaded, first
    std::int64_t for_choice = 0;  // rows from which a token is chosen, after them
    Tensor rows;                  // of both; absent where they are all rows of the piece, in order
    Tensor rules, steps, history;
    Tensor positions;  // to be moved on: where every token of the piece asks for the next
  };

  void check_sequences(std::span<const SequenceInput> sequences, const Mamba2Cache& cache);
  void check_tokens(std::span<const SequenceInput> sequences);
  void carry_tokens();
  void run_pieces(std::span<const SequenceInput> sequences, Mamba2Cache& cache, const PreparedWeight* head,
                  ForwardOutput& output);
  void split(std::span<const SequenceInput> sequences);
  Batch describe(std::span<const SequenceInput> sequences, std::span<const Segment> piece, const Mamba2Cache& cache);
  void run_piece(std::span<const SequenceInput> sequences, std::span<const Segment> piece, Mamba2Cache& cache,
                 const PreparedWeight* head, ForwardOutput& output);
  void plan_mixers(std::span<const Segment> piece, const Batch& batch, Mamba2Cache& cache);
  Tensor ids_of(std::span<const SequenceInput> sequences, std::span<const Segment> piece);
  void embed(std::span<const SequenceInput> sequences, std::span<const Segment> piece, const Tensor& hidden);
  Kept find_kept(std::span<const SequenceInput> sequences, std::span<const Segment> piece, const Batch& batch);
  void describe_requests(Kept& kept);
  void project_kept(const Kept& kept, const Tensor& normed, const PreparedWeight& head, const Tensor& logits);
  void choose(const Kept& kept, const Tensor& logits, std::int64_t first);
  void forget_integers();

  const ModelPart& part_;
  const Mamba2Config& config_;
  const ModelWeights& weights_;
  Backend& backend_;
  const std::int64_t piece_tokens_;
  std::int64_t most_tokens_ = 0;  // of a piece of this call
  std::vector<bool> named_slots_;
  std::vector<Segment> segments_;        // of all pieces, end to end
  std::vector<std::size_t> piece_ends_;  // in segments_
  Activations activations_;
  std::vector<MixerPart> mixer_parts_;  // of a piece
  DeviceIntegers ids_, sequence_start_, later_start_, slots_, positions_, kept_rows_, rules_, steps_, history_;
  std::vector<const TokenRequest*> requests_;  // of a piece
  DeviceTensor kept_;                          // (rows, hidden_size)
  DeviceTensor logits_;                        // (rows, vocab_size)
  std::int64_t logits_done_ = 0;
  DeviceTensor tokens_;  // (rows) i32: chosen by the last call
  std::int64_t tokens_done_ = 0;
  std::vector<std::int64_t> chosen_slots_;  // whose tokens tokens_ holds
  static constexpr std::int64_t known_to_host = -1;
  std::vector<std::int64_t> going_on_;   // place in chosen_slots_ of the token that each sequence goes on from
  bool all_go_on_ = false;               // from all of them, in order and in one piece: tokens_ are the ids
  DeviceTensor carried_;                 // else a copy of tokens_, which the choices of this call overwrite
  std::deque<std::int64_t> unfinished_;  // tokens of each download under way
};

}  // namespace mamba2
