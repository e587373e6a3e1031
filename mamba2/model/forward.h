#pragma once

#include <span>
#include <vector>

#include "mamba2/model/cache.h"
#include "mamba2/model/layers.h"
#include "mamba2/model/modeling_mamba2.h"
#include "mamba2/model/weights.h"

namespace mamba2 {

/// A forward pass over the parts of a model: splits what is to be fed into pieces of bounded size, runs the layers over
/// each and collects what was asked for.
class ForwardPass {
 public:
  ForwardPass(const Mamba2Config& config, const ModelWeights& weights, Backend& backend)
      : config_(config), weights_(weights), backend_(backend) {}

  /// head: null for no logits.
  ForwardOutput run(std::span<const SequenceInput> sequences, Mamba2Cache& cache, const ForwardOptions& options,
                    const PreparedWeight* head);

 private:
  /// Tokens [begin, begin + count) of a sequence that are part of a piece; first_row is where they stand in the output.
  struct Segment {
    std::size_t sequence;
    std::int64_t begin, count, first_row;
  };

  void check(std::span<const SequenceInput> sequences, const Mamba2Cache& cache) const;
  std::vector<std::vector<Segment>> split(std::span<const SequenceInput> sequences) const;
  void run_piece(std::span<const SequenceInput> sequences, std::span<const Segment> piece, Mamba2Cache& cache,
                 const PreparedWeight* head, ForwardOutput& output);
  void embed(std::span<const SequenceInput> sequences, std::span<const Segment> piece, const Tensor& hidden);
  void project_kept(std::span<const SequenceInput> sequences, std::span<const Segment> piece, const Tensor& normed,
                    const PreparedWeight& head, HostTensor& logits);

  const Mamba2Config& config_;
  const ModelWeights& weights_;
  Backend& backend_;
  Activations activations_;
  DeviceTensor kept_;    // (rows, hidden_size)
  DeviceTensor logits_;  // (rows, vocab_size)
  std::int64_t logits_done_ = 0;
};

}  // namespace mamba2
