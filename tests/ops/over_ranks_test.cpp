// Ops of several ranks, on the reference: a row that is split over ranks gives what the whole row gives.
#include <gmock/gmock.h>

#include <cmath>

#include "mamba2/base/error.h"
#include "mamba2/base/random.h"
#include "mamba2/ops/thread_communicator.h"
#include "mamba2/reference/reference_backend.h"
#include "tests/in_ranks.h"

namespace mamba2 {
namespace {

using ::testing::HasSubstr;

std::vector<std::unique_ptr<Backend>> joined(int ranks, DType dtype) {
  std::vector<std::unique_ptr<Backend>> backends;
  for (std::unique_ptr<Communicator>& communicator : make_thread_communicators(ranks)) {
    backends.push_back(make_reference_backend(dtype));
    backends.back()->join(std::move(communicator));
  }
  return backends;
}

HostTensor random_tensor(DType dtype, const Shape& shape, std::uint64_t seed) {
  Random random(seed);
  HostTensor made(DType::f64, shape), rounded(dtype, shape);
  for (double& value : made.span<double>()) value = 4 * random.uniform() - 2;
  convert(made, rounded);
  return rounded;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  const HostTensor x(DType::f64, a.shape), y(DType::f64, b.shape);
  convert(a, x);
  convert(b, y);
  double largest = 0;
  for (std::size_t i = 0; i < x.span<double>().size(); ++i)
    largest = std::max(largest, std::abs(x.span<double>()[i] - y.span<double>()[i]));
  return largest;
}

struct NormShape {
  std::int64_t rows, width, group_size;
  int ranks;

  friend void PrintTo(const NormShape& shape, std::ostream* to) {
    *to << shape.rows << " rows of " << shape.width << " in groups of " << shape.group_size << " over " << shape.ranks;
  }
};

/// A group to each of several ranks, one for all, groups that lie on two ranks in part, a rank with parts of three.
class NormsOverRanks : public ::testing::TestWithParam<NormShape> {};
INSTANTIATE_TEST_SUITE_P(Shapes, NormsOverRanks,
                         ::testing::Values(NormShape{3, 8, 8, 2}, NormShape{1, 24, 12, 4}, NormShape{4, 30, 10, 2},
                                           NormShape{2, 24, 8, 2}, NormShape{0, 8, 8, 4}, NormShape{2, 36, 6, 4}));

TEST_P(NormsOverRanks, GiveWhatTheNormOfWholeRowsGives) {
  const auto [rows, width, group_size, ranks] = GetParam();
  // Values in f32 are rounded once each way, and so is a sum of squares: three half units of values below 8.
  for (const auto& [dtype, bound] : {std::pair(DType::f64, 1e-14), std::pair(DType::f32, 12 * 0x1p-24)}) {
    const HostTensor x = random_tensor(dtype, {rows, width}, 1), weight = random_tensor(dtype, {width}, 2);
    HostTensor want(dtype, {rows, width}), got(dtype, {rows, width});
    for (std::int64_t first = 0; first < width; first += group_size)
      make_reference_backend(dtype)->run(RmsNorm{.x = x.view().slice(1, first, group_size),
                                                 .weight = weight.view().slice(0, first, group_size),
                                                 .eps = 1e-3,
                                                 .out = want.view().slice(1, first, group_size)});
    const auto backends = joined(ranks, dtype);
    test::in_ranks(ranks, [&, rows = rows, width = width, group_size = group_size, ranks = ranks,
                           dtype = dtype](int rank) {
      const std::int64_t share = width / ranks;
      const HostTensor sums(dtype, {rows, width / group_size});
      backends[static_cast<std::size_t>(rank)]->run(NormOverRanks{.x = x.view().slice(1, rank * share, share),
                                                                  .weight = weight.view().slice(0, rank * share, share),
                                                                  .group_size = group_size,
                                                                  .first_channel = rank * share,
                                                                  .eps = 1e-3,
                                                                  .square_sums = sums,
                                                                  .out = got.view().slice(1, rank * share, share)});
    });
    EXPECT_LE(largest_difference(got, want), bound) << name(dtype);
  }
}

TEST(AddOverRanks, AddsWhatAllRanksHaveToWhatEachHas) {
  constexpr int ranks = 3;
  const auto backends = joined(ranks, DType::f32);
  std::vector<HostTensor> x, hidden;
  for (std::uint64_t rank = 0; rank < ranks; ++rank) {
    x.push_back(random_tensor(DType::f32, {4, 6}, rank));
    hidden.push_back(random_tensor(DType::f32, {4, 6}, 9));
  }
  const HostTensor want = random_tensor(DType::f32, {4, 6}, 9);
  for (std::size_t i = 0; i < 24; ++i) {
    double sum = 0;
    for (const HostTensor& of_rank : x) sum += of_rank.span<float>()[i];
    want.span<float>()[i] += static_cast<float>(sum);
  }
  test::in_ranks(ranks, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    backends[r]->run(AddOverRanks{.x = x[r], .add = hidden[r], .out = hidden[r]});
  });
  for (const HostTensor& of_rank : hidden) EXPECT_EQ(largest_difference(of_rank, want), 0);
}

TEST(OpsOverRanks, RefuseABackendThatIsAloneAndOperandsThatDoNotFit) {
  auto message = [](Backend& backend, const auto& op) -> std::string {
    try {
      backend.run(op);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const HostTensor x(DType::f32, {2, 6}), weight(DType::f32, {6}), sums(DType::f32, {2, 1});
  const auto alone = make_reference_backend();
  EXPECT_THAT(message(*alone, AddOverRanks{.x = x, .add = x, .out = x}), HasSubstr("alone"));
  const auto backends = joined(2, DType::f32);
  EXPECT_THAT(message(*backends[0], AddOverRanks{.x = x.view().slice(1, 0, 4), .add = x, .out = x}),
              HasSubstr("AddOverRanks: x has gaps"));
  EXPECT_THAT(
      message(
          *backends[0],
          NormOverRanks{.x = x, .weight = weight, .group_size = 8, .first_channel = 4, .square_sums = sums, .out = x}),
      HasSubstr("channels 4 to 10 are not all in 1 groups of 8"));
  EXPECT_THAT(message(*backends[0], Broadcast{.x = x}), HasSubstr("Broadcast: x is (2, 6)"));
}

}  // namespace
}  // namespace mamba2
