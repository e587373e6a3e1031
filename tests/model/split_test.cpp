#include "mamba2/model/split.h"

#include <gmock/gmock.h>

#include <map>

#include "drawn_model.h"
#include "support.h"

/// A split is right if its parts, put together head by head, are the model: pure arithmetic, no backend needed.
namespace mamba2 {
namespace {

using test::from_to;
using ::testing::HasSubstr;

/// The elements that a rank holds, one by one.
std::vector<std::int64_t> elements_of(const Split& split, SplitBy by, std::int64_t extent, int rank) {
  std::vector<std::int64_t> elements;
  for (const ElementRange& range : split.ranges(by, extent, rank))
    for (std::int64_t i = 0; i < range.count; ++i) elements.push_back(range.begin + i);
  return elements;
}

TEST(Split, GivesRanksTensorsOfTheShapesOfTheirConfigs) {
  test::for_random_cases([] {
    const int ranks = static_cast<int>(from_to(1, 4));
    const Mamba2Config config = test::any_divisible_config(ranks);
    const Split split(config, ranks);
    ModelWeights unused, unused_too;
    const std::vector<TensorSlot> whole = tensor_table(config, unused);
    for (int rank = 0; rank < ranks; ++rank) {
      const std::vector<TensorSlot> part = tensor_table(split.part(rank).config, unused_too);
      ASSERT_EQ(part.size(), whole.size());
      for (std::size_t i = 0; i < whole.size(); ++i) {
        const int dimension = split_dimension(whole[i].split);
        const auto held = std::ssize(elements_of(split, whole[i].split, whole[i].shape[dimension], rank));
        const bool left_out = whole[i].split == SplitBy::first_rank && rank > 0;
        EXPECT_EQ(held, left_out ? 0 : part[i].shape[dimension]) << whole[i].name << " of rank " << rank;
      }
    }
  });
}

TEST(Split, LeavesNoElementOutAndGivesWhatIsSummedOnce) {
  test::for_random_cases([] {
    const int ranks = static_cast<int>(from_to(1, 4));
    const Mamba2Config config = test::any_divisible_config(ranks);
    const Split split(config, ranks);
    ModelWeights unused;
    for (const TensorSlot& slot : tensor_table(config, unused)) {
      std::map<std::int64_t, int> holders;
      const std::int64_t extent = slot.shape[split_dimension(slot.split)];
      for (int rank = 0; rank < ranks; ++rank)
        for (const std::int64_t element : elements_of(split, slot.split, extent, rank)) ++holders[element];
      EXPECT_EQ(std::ssize(holders), extent) << slot.name;
      // B, C, keys and values may be on several ranks, and norms are; a product's columns and its bias are not
      const bool summed = split_dimension(slot.split) == 1 || slot.split == SplitBy::first_rank;
      for (const auto& [element, count] : holders) {
        EXPECT_TRUE(count == 1 || !summed) << slot.name << " element " << element;
      }
    }
  });
}

/// What head h of the whole model reads, the rank that has it reads for its own head: by the rule that a backend goes
/// by, head h uses group h / (num_heads / n_groups).
TEST(Split, GivesEveryHeadItsOwnGroupAndChannels) {
  test::for_random_cases([] {
    const int ranks = static_cast<int>(from_to(1, 4));
    const Mamba2Config config = test::any_divisible_config(ranks);
    const Split split(config, ranks);
    const std::int64_t inner = config.intermediate_size(), groups_width = config.n_groups * config.state_size;
    for (int rank = 0; rank < ranks; ++rank) {
      const Mamba2Config part = split.part(rank).config;
      const auto rows = elements_of(split, SplitBy::mixer_in, config.in_proj_size(), rank);
      auto row = [&](std::int64_t index) { return rows[static_cast<std::size_t>(index)]; };
      const std::int64_t mlp = part.mixer_mlp_size, own = part.intermediate_size();
      const std::int64_t own_groups = part.n_groups * part.state_size;
      for (std::int64_t head = 0; head < part.num_heads; ++head) {
        const std::int64_t global = rank * part.num_heads + head;
        const std::int64_t group = head / (part.num_heads / part.n_groups);
        const std::int64_t global_group = global / (config.num_heads / config.n_groups);
        const std::int64_t z = 2 * mlp, x = z + own, B = x + own, C = B + own_groups, dt = C + own_groups;
        const std::int64_t first = 2 * config.mixer_mlp_size;
        EXPECT_EQ(row(z + head * part.head_dim), first + global * config.head_dim);
        EXPECT_EQ(row(x + head * part.head_dim), first + inner + global * config.head_dim);
        EXPECT_EQ(row(B + group * part.state_size), first + 2 * inner + global_group * config.state_size);
        EXPECT_EQ(row(C + group * part.state_size),
                  first + 2 * inner + groups_width + global_group * config.state_size);
        EXPECT_EQ(row(dt + head), first + 2 * inner + 2 * groups_width + global);
      }
    }
  });
}

TEST(Split, KeepsOnlyTheGroupsThatARankUses) {
  Mamba2Config config;
  config.num_heads = 8;
  for (const auto& [groups, ranks, kept] : {std::tuple(1, 4, 1), {2, 4, 1}, {8, 2, 4}, {4, 4, 1}, {2, 2, 1}}) {
    config.n_groups = groups;
    EXPECT_EQ(Split(config, ranks).part(0).config.n_groups, kept) << groups << " groups over " << ranks << " ranks";
  }
}

TEST(Split, KnowsWhichNormsReachOverRanks) {
  Mamba2Config config;
  config.num_heads = 8;
  config.head_dim = 4;
  auto groups_over_ranks = [&](std::int64_t groups, int ranks, GatedNorm norm) {
    config.n_groups = groups;
    config.gated_norm = norm;
    return Split(config, ranks).part(1 % ranks).norm_groups;
  };
  EXPECT_EQ(groups_over_ranks(1, 1, GatedNorm::grouped), 0);
  EXPECT_EQ(groups_over_ranks(1, 2, GatedNorm::grouped), 1);
  EXPECT_EQ(groups_over_ranks(8, 4, GatedNorm::grouped), 0);
  EXPECT_EQ(groups_over_ranks(8, 4, GatedNorm::ungrouped), 1);
  EXPECT_EQ(groups_over_ranks(2, 4, GatedNorm::grouped), 2);
  config.gated_norm_weight = false;
  EXPECT_EQ(groups_over_ranks(1, 2, GatedNorm::grouped), 0);
}

TEST(Split, RefusesRanksThatDoNotDivideTheModel) {
  auto message = [](int ranks, auto&& change) {
    Mamba2Config config;
    change(config);
    return test::error_of([&] { Split(config, ranks); });
  };
  EXPECT_THAT(message(0, [](Mamba2Config&) {}), HasSubstr("split over 0 ranks, expected 1 or more"));
  EXPECT_THAT(message(3, [](Mamba2Config&) {}),
              HasSubstr("can't be split over 3 ranks: num_heads is 80, expected a multiple of 3"));
  EXPECT_THAT(message(2, [](Mamba2Config& c) { c.mixer_mlp_size = 3; }), HasSubstr("the mixer's own MLP is 3"));
  EXPECT_THAT(message(4,
                      [](Mamba2Config& c) {
                        c.attention_layers_idx = {0};
                        c.num_attention_heads = c.num_key_value_heads = 6;
                      }),
              HasSubstr("num_attention_heads is 6"));
  EXPECT_THAT(message(2,
                      [](Mamba2Config& c) {
                        c.mlp_intermediate_size = 9;
                        c.mlp_padding_size = 1;
                      }),
              HasSubstr("mlp_intermediate_size, rounded up, is 9"));
}

}  // namespace
}  // namespace mamba2
