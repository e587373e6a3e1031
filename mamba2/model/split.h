#pragma once

#include <cstdint>
#include <vector>

#include "mamba2/model/config.h"
#include "mamba2/model/weights.h"

/// How a model is split over ranks that compute it together (tensor parallelism, Shoeybi et al. 2019): every rank has
/// num_heads / ranks heads of each mixer with the groups that they use, its query heads of each attention with their
/// key and value heads, and its part of each MLP's width; of the projections into these the rows, of the projections
/// back the columns, whose products are summed over the ranks.  Norms, embeddings and heads are whole on every rank.
namespace mamba2 {

/// Elements [begin, begin + count) of a dimension.
struct ElementRange {
  std::int64_t begin = 0, count = 0;
  bool operator==(const ElementRange&) const = default;
};

/// What one rank computes; of a model on one device, all of it.
struct ModelPart {
  Mamba2Config config;  ///< with the sizes of the part: what tensor_table() of it says is what the rank holds
  int rank = 0, ranks = 1;
  std::int64_t norm_group_size = 0;     ///< channels of a group of the gated norm, those on other ranks among them
  std::int64_t norm_first_channel = 0;  ///< of this rank's, among those of all ranks
  std::int64_t norm_groups = 0;         ///< on all ranks, where groups reach over several; 0 where none does
};

/// The parts of a model by its config.  Throws Error that names the field that the ranks don't divide.
class Split {
 public:
  Split(const Mamba2Config& config, int ranks);

  int ranks() const { return ranks_; }
  ModelPart part(int rank) const;
  /// What a rank holds, end to end, of a tensor whose split dimension has so many elements; none: nothing.
  std::vector<ElementRange> ranges(SplitBy by, std::int64_t extent, int rank) const;

 private:
  Mamba2Config config_;
  int ranks_;
};

/// The dimension that is split: rows, or columns.
constexpr int split_dimension(SplitBy by) {
  return by == SplitBy::mixer_out || by == SplitBy::attention_out || by == SplitBy::mlp_out ? 1 : 0;
}

}  // namespace mamba2
