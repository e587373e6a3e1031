#include "mamba2/ops/thread_communicator.h"

#include <gmock/gmock.h>

#include <atomic>
#include <numeric>

#include "mamba2/base/error.h"
#include "mamba2/base/random.h"
#include "tests/in_ranks.h"

namespace mamba2 {
namespace {

using test::in_ranks;
using ::testing::HasSubstr;

class RanksInThreads : public ::testing::TestWithParam<int> {
 protected:
  int ranks() const { return GetParam(); }
  std::vector<std::unique_ptr<Communicator>> communicators_ = make_thread_communicators(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Some, RanksInThreads, ::testing::Values(1, 2, 3, 5));

Tensor over(std::vector<float>& values) {
  return Tensor(values.data(), DType::f32, {std::ssize(values)});
}

TEST_P(RanksInThreads, HoldTheSumThatRanksAddedInOrderGive) {
  for (const std::size_t count : {0, 1, 2, 7, 1000}) {
    std::vector<std::vector<float>> values(static_cast<std::size_t>(ranks()));
    Random random(count + 1);
    for (std::vector<float>& of_rank : values)
      for (std::size_t i = 0; i < count; ++i) of_rank.push_back(static_cast<float>(random.uniform() * 2e3 - 1e3));
    std::vector<float> want;
    for (std::size_t i = 0; i < count; ++i) {
      double sum = 0;
      for (const std::vector<float>& of_rank : values) sum += of_rank[i];
      want.push_back(static_cast<float>(sum));
    }
    in_ranks(ranks(), [&](int rank) {
      const auto index = static_cast<std::size_t>(rank);
      communicators_[index]->all_reduce(over(values[index]), nullptr);
    });
    for (const std::vector<float>& of_rank : values) EXPECT_EQ(of_rank, want);
  }
}

TEST_P(RanksInThreads, TakeWhatTheFirstHolds) {
  std::vector<std::vector<float>> values;
  for (int rank = 0; rank < ranks(); ++rank) values.emplace_back(9, static_cast<float>(rank + 1));
  in_ranks(ranks(), [&](int rank) {
    const auto index = static_cast<std::size_t>(rank);
    communicators_[index]->broadcast(over(values[index]), nullptr);
  });
  for (const std::vector<float>& of_rank : values) EXPECT_EQ(of_rank, std::vector<float>(9, 1.0F));
}

TEST_P(RanksInThreads, GetAnErrorInsteadOfWaitingForOneThatGaveUp) {
  if (ranks() == 1) return;
  std::atomic<int> refused{0};
  in_ranks(ranks(), [&](int rank) {
    if (rank == 0) return communicators_[0]->abort();
    std::vector<float> values(3);
    try {
      communicators_[static_cast<std::size_t>(rank)]->all_reduce(over(values), nullptr);
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("another rank"));
      ++refused;
    }
  });
  EXPECT_EQ(refused, ranks() - 1);
}

TEST_P(RanksInThreads, RefuseWhatTheyCannotAddUp) {
  std::vector<std::int32_t> values(4);
  EXPECT_THROW(communicators_[0]->all_reduce(Tensor(values.data(), DType::i32, {4}), nullptr), Error);
}

}  // namespace
}  // namespace mamba2
