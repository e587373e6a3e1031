#pragma once

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
/// allocates nothing.
class ForwardPass {
 public:
  ForwardPass(const Mamba2Config& config, const ModelWeights& weights, Backend& backend)
      : config_(config), weights_(weights), backend_(backend) {}

  /// head: null for no logits.  Tensors of output that have the right shape already are written in place.
  void run(std::span<const SequenceInput> sequences, Mamba2Cache& cache, const ForwardOptions& options,
           const PreparedWeight* head, ForwardOutput& output);

 private:
  /// Tokens [begin, begin + count) of a sequence that are part of a piece; first_row is where they stand in the output.
  struct Segment {
    std::size_t sequence;
    std::int64_t begin, count, first_row;
  };

  void check(std::span<const SequenceInput> sequences, const Mamba2Cache& cache);
  void split(std::span<const SequenceInput> sequences);
  Batch describe(std::span<const SequenceInput> sequences, std::span<const Segment> piece, const Mamba2Cache& cache);
  void run_piece(std::span<const SequenceInput> sequences, std::span<const Segment> piece, Mamba2Cache& cache,
                 const PreparedWeight* head, ForwardOutput& output);
  void embed(std::span<const SequenceInput> sequences, std::span<const Segment> piece, const Tensor& hidden);
  void project_kept(std::span<const SequenceInput> sequences, std::span<const Segment> piece, const Tensor& normed,
                    const PreparedWeight& head, const Tensor& logits);

  const Mamba2Config& config_;
  const ModelWeights& weights_;
  Backend& backend_;
  std::vector<bool> named_slots_;
  std::vector<Segment> segments_;        // of all pieces, end to end
  std::vector<std::size_t> piece_ends_;  // in segments_
  Activations activations_;
  DeviceIntegers ids_, sequence_start_, slots_, positions_, kept_rows_;
  DeviceTensor kept_;    // (rows, hidden_size)
  DeviceTensor logits_;  // (rows, vocab_size)
  std::int64_t logits_done_ = 0;
};

}  // namespace mamba2
