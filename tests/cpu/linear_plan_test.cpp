#include "mamba2/cpu/linear_plan.h"

#include <gtest/gtest.h>

#include "tests/cpu/properties.h"

namespace mamba2::cpu {
namespace {

constexpr LinearMachine two_threads{Isa::avx2, 2, 1 << 20, Bf16Products::where_faster};
constexpr LinearMachine tiles{Isa::amx, 16, 2 << 20, Bf16Products::where_faster};

LinearForm form(std::int64_t rows, WeightType type, Isa isa, Bf16Products products) {
  return linear_plan(rows, 3352, 768, type, {isa, 2, 1 << 20, products}).form;
}

TEST(LinearPlan, RoundsXForManyRowsOfWeightsInBf16WhereTheProcessorMultipliesThem) {
  EXPECT_EQ(form(512, WeightType::bf16, Isa::avx512_bf16, Bf16Products::where_faster), LinearForm::rounded);
  EXPECT_EQ(form(512, WeightType::bf16, Isa::amx, Bf16Products::where_faster), LinearForm::rounded);
  EXPECT_EQ(form(1, WeightType::bf16, Isa::amx, Bf16Products::where_faster), LinearForm::widened);
  EXPECT_EQ(form(512, WeightType::bf16, Isa::avx512_vnni, Bf16Products::where_faster), LinearForm::widened);
}

TEST(LinearPlan, TakesWeightsInF16ApartForManyRowsWhereThereAreTilesForThem) {
  EXPECT_EQ(form(512, WeightType::f16, Isa::amx, Bf16Products::where_faster), LinearForm::split);
  EXPECT_EQ(form(31, WeightType::f16, Isa::amx, Bf16Products::where_faster), LinearForm::widened);
  EXPECT_EQ(form(512, WeightType::f16, Isa::avx512_bf16, Bf16Products::where_faster), LinearForm::widened);
}

TEST(LinearPlan, NeverRoundsXForWeightsThatAreNotBf16) {
  for (const Bf16Products products : {Bf16Products::where_faster, Bf16Products::always})
    for (const WeightType type : {WeightType::f32, WeightType::f16})
      EXPECT_NE(form(512, type, Isa::amx, products), LinearForm::rounded);
}

TEST(LinearPlan, KeepsSmallMatricesInF32UnlessAllAreToBeRounded) {
  const auto form_of_small = [](Bf16Products products) {
    return linear_plan(512, 1000, 1000, WeightType::bf16, {Isa::amx, 2, 1 << 20, products}).form;
  };
  EXPECT_EQ(form_of_small(Bf16Products::where_faster), LinearForm::widened);
  EXPECT_EQ(form_of_small(Bf16Products::always), LinearForm::rounded);
}

TEST(LinearPlan, HasOneFormForAnyNumberOfRowsWhereAsked) {
  for (const Isa isa : {Isa::avx2, Isa::avx512_bf16, Isa::amx})
    for (const WeightType type : {WeightType::f32, WeightType::f16, WeightType::bf16})
      EXPECT_EQ(form(1, type, isa, Bf16Products::always), form(512, type, isa, Bf16Products::always));
}

TEST(LinearPlan, KeepsABlockOfXInHalfOfTheL2Cache) {
  for (const std::int64_t rows : {48, 100, 512, 1024, 4096})
    for (const std::int64_t k : {768, 1536, 4096}) {
      EXPECT_LE(
          linear_plan(rows, 3352, k, WeightType::f32, two_threads).rows_in_block * std::min<std::int64_t>(k, 1024) * 4,
          two_threads.l2_bytes / 2);
      EXPECT_LE(linear_plan(rows, 3352, k, WeightType::bf16, tiles).rows_in_block * k * 2, tiles.l2_bytes / 2);
    }
}

TEST(LinearPlan, CutsRowsForTilesIntoBlocksOfEqualHeight) {
  EXPECT_EQ(linear_plan(512, 768, 1536, WeightType::bf16, tiles).rows_in_block, 256);
}

TEST(LinearPlan, GivesSixteenThreadsSeveralBlocksEach) {
  // in_proj and out_proj of 130m and of 1.3b
  for (const auto& [n, k] : {std::pair{3352, 768}, {8512, 2048}, {2048, 4096}}) {
    const LinearPlan plan = linear_plan(512, n, k, WeightType::bf16, tiles);
    const std::int64_t blocks =
        (512 + plan.rows_in_block - 1) / plan.rows_in_block * ((n + plan.columns_in_block - 1) / plan.columns_in_block);
    EXPECT_GE(blocks, 4 * tiles.threads) << n << " by " << k;
  }
}

TEST(LinearPlan, HasBlocksThatNoShapeMakesEmpty) {
  test::for_random_cases([] {
    const std::int64_t rows = test::from_to(0, 5000), n = test::from_to(1, 60000), k = test::from_to(0, 20000);
    const auto type = *rc::gen::element(WeightType::f32, WeightType::bf16, WeightType::f16);
    const auto isa = *rc::gen::element(Isa::portable, Isa::avx2, Isa::avx512_bf16, Isa::amx);
    const LinearPlan plan = linear_plan(
        rows, n, k, type,
        {isa, 1 + static_cast<int>(test::from_to(0, 200)), test::from_to(0, 1 << 24), Bf16Products::where_faster});
    EXPECT_GE(plan.columns_in_block, 1);
    EXPECT_GE(plan.rows_in_block, 1);
    EXPECT_EQ(plan.rows_in_block % rows_in_a_group, 0);
  });
}

}  // namespace
}  // namespace mamba2::cpu
