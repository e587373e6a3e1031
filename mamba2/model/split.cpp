#include "mamba2/model/split.h"

#include <numeric>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

/// Heads that share groups, over ranks: a rank has equally many heads as the others, cut into runs of one group each.
/// A group whose heads lie on several ranks is on each of them; where a rank's heads begin amid a group, runs are
/// shorter than groups and a group may be there twice, so that every run is equally long.
struct SharedGroups {
  SharedGroups(std::int64_t all_heads, std::int64_t all_groups, int ranks)
      : heads(all_heads / ranks), of_group(all_heads / all_groups), groups(heads / std::gcd(heads, of_group)) {}

  std::int64_t group(std::int64_t index, int rank) const {
    return (rank * heads + index * (heads / groups)) / of_group;
  }

  std::int64_t heads;     // of a rank
  std::int64_t of_group;  // heads that share one, on all ranks
  std::int64_t groups;    // of a rank: runs of its heads
};

/// Ranges that lie end to end become one.
class Ranges {
 public:
  void add(std::int64_t begin, std::int64_t count) {
    if (count == 0) return;
    if (!all.empty() && all.back().begin + all.back().count == begin)
      all.back().count += count;
    else
      all.push_back({begin, count});
  }
  /// A rank's part of `extent` elements from `base` on.
  void add_part(std::int64_t base, std::int64_t extent, int rank, int ranks) {
    add(base + extent / ranks * rank, extent / ranks);
  }
  /// Its groups, each so wide.
  void add_groups(std::int64_t base, const SharedGroups& shared, std::int64_t width, int rank) {
    for (std::int64_t i = 0; i < shared.groups; ++i) add(base + shared.group(i, rank) * width, width);
  }

  std::vector<ElementRange> all;
};

SharedGroups mixer_groups(const Mamba2Config& c, int ranks) {
  return {c.num_heads, c.n_groups, ranks};
}
SharedGroups attention_groups(const Mamba2Config& c, int ranks) {
  return {c.num_attention_heads, c.num_key_value_heads, ranks};
}

/// [x | B | C] from `base` on.
void add_conv_channels(Ranges& ranges, std::int64_t base, const Mamba2Config& c, int rank, int ranks) {
  const SharedGroups groups = mixer_groups(c, ranks);
  const std::int64_t inner = c.intermediate_size();
  ranges.add_part(base, inner, rank, ranks);
  ranges.add_groups(base + inner, groups, c.state_size, rank);
  ranges.add_groups(base + inner + c.n_groups * c.state_size, groups, c.state_size, rank);
}

/// [z0 | x0 | z | x | B | C | dt]
void add_mixer_rows(Ranges& ranges, const Mamba2Config& c, int rank, int ranks) {
  const std::int64_t mlp = c.mixer_mlp_size, inner = c.intermediate_size();
  ranges.add_part(0, mlp, rank, ranks);
  ranges.add_part(mlp, mlp, rank, ranks);
  ranges.add_part(2 * mlp, inner, rank, ranks);
  add_conv_channels(ranges, 2 * mlp + inner, c, rank, ranks);
  ranges.add_part(2 * mlp + inner + c.conv_dim(), c.num_heads, rank, ranks);
}

/// [queries | keys | values]
void add_qkv_rows(Ranges& ranges, const Mamba2Config& c, int rank, int ranks) {
  const SharedGroups groups = attention_groups(c, ranks);
  const std::int64_t queries = c.num_attention_heads * c.attention_head_dim,
                     keys = c.num_key_value_heads * c.attention_head_dim;
  ranges.add_part(0, queries, rank, ranks);
  ranges.add_groups(queries, groups, c.attention_head_dim, rank);
  ranges.add_groups(queries + keys, groups, c.attention_head_dim, rank);
}

}  // namespace

Split::Split(const Mamba2Config& config, int ranks) : config_(config), ranks_(ranks) {
  require(ranks >= 1, "a model was to be split over {} ranks, expected 1 or more", ranks);
  auto divides = [ranks](std::string_view field, std::int64_t value) {
    require(value % ranks == 0, "the model can't be split over {} ranks: {} is {}, expected a multiple of {}", ranks,
            field, value, ranks);
  };
  divides("num_heads", config.num_heads);
  divides("the width of the mixer's own MLP", config.mixer_mlp_size);
  if (config.has_attention()) divides("num_attention_heads", config.num_attention_heads);
  if (config.has_mlp()) divides("mlp_intermediate_size, rounded up,", config.padded_mlp_size());
}

ModelPart Split::part(int rank) const {
  ModelPart part{.config = config_, .rank = rank, .ranks = ranks_, .norm_group_size = config_.norm_group_size()};
  if (ranks_ == 1) return part;
  Mamba2Config& c = part.config;
  c.n_groups = mixer_groups(config_, ranks_).groups;
  c.num_heads /= ranks_;
  c.mixer_mlp_size /= ranks_;
  if (c.has_attention()) {
    c.num_key_value_heads = attention_groups(config_, ranks_).groups;
    c.num_attention_heads /= ranks_;
  }
  if (c.has_mlp()) {
    c.mlp_intermediate_size = config_.padded_mlp_size() / ranks_;
    c.mlp_padding_size = 1;
  }
  part.norm_first_channel = rank * c.intermediate_size();
  if (c.gated_norm_weight && c.intermediate_size() % part.norm_group_size != 0)
    part.norm_groups = config_.intermediate_size() / part.norm_group_size;
  return part;
}

std::vector<ElementRange> Split::ranges(SplitBy by, std::int64_t extent, int rank) const {
  Ranges ranges;
  switch (by) {
    case SplitBy::nothing: ranges.add(0, extent); break;
    case SplitBy::first_rank: ranges.add(0, rank == 0 ? extent : 0); break;
    case SplitBy::part: ranges.add_part(0, extent, rank, ranks_); break;
    case SplitBy::mixer_in: add_mixer_rows(ranges, config_, rank, ranks_); break;
    case SplitBy::conv_channels: add_conv_channels(ranges, 0, config_, rank, ranks_); break;
    case SplitBy::qkv: add_qkv_rows(ranges, config_, rank, ranks_); break;
    case SplitBy::mixer_out:  // [mlp | y]
      ranges.add_part(0, config_.mixer_mlp_size, rank, ranks_);
      ranges.add_part(config_.mixer_mlp_size, config_.intermediate_size(), rank, ranks_);
      break;
    case SplitBy::mlp_in:  // [value | gate]
      ranges.add_part(0, extent / 2, rank, ranks_);
      ranges.add_part(extent / 2, extent / 2, rank, ranks_);
      break;
    case SplitBy::attention_out:
    case SplitBy::mlp_out: ranges.add_part(0, extent, rank, ranks_); break;
  }
  return ranges.all;
}

}  // namespace mamba2
