#pragma once

#include <span>
#include <vector>

#include "mamba2/model/cache.h"
#include "mamba2/model/modeling_mamba2.h"
#include "mamba2/model/weights.h"

namespace mamba2 {

/// Device buffers of one piece of a forward pass, reused from call to call; rows are tokens.
struct Activations {
  std::int64_t tokens = 0;  ///< rows that the buffers have
  DeviceTensor ids;         ///< (tokens) i32
  DeviceTensor hidden;      ///< (tokens, hidden_size): the residual stream
  DeviceTensor normed;      ///< (tokens, hidden_size)
  DeviceTensor projected;   ///< (tokens, in_proj_size)
  DeviceTensor xBC;         ///< (tokens, conv_dim)
  DeviceTensor dt;          ///< (tokens, num_heads)
  DeviceTensor y;           ///< (tokens, intermediate_size)
  DeviceTensor mixed;       ///< (tokens, mixer_mlp_size + intermediate_size)
  DeviceTensor qkv;         ///< (tokens, attention_qkv_size)
  DeviceTensor qkv_conv;    ///< (tokens, attention_qkv_size), where the attention has a convolution
  DeviceTensor attended;    ///< (tokens, num_attention_heads * attention_head_dim)
  DeviceTensor mlp_in;      ///< (tokens, 2 * padded_mlp_size)
  DeviceTensor mlp_out;     ///< (tokens, padded_mlp_size)
};

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
  void make_room(std::int64_t tokens);
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
