#include "mamba2/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <vector>

#include "mamba2/base/error.h"

namespace mamba2::cpu {
namespace {

TEST(ThreadPool, EveryIndexIsVisitedOnce) {
  for (const int threads : {1, 2, 7}) {
    ThreadPool pool(threads);
    for (const std::int64_t count : {0, 1, 2, 5, 29, 1000}) {
      std::vector<int> visits(static_cast<std::size_t>(count));
      pool.parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end, int) {
        for (std::int64_t i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
      });
      EXPECT_EQ(visits, std::vector<int>(static_cast<std::size_t>(count), 1));
    }
  }
}

TEST(ThreadPool, NoPieceButTheLastIsShorterThanTheGrain) {
  ThreadPool pool(4);
  std::vector<std::int64_t> lengths(100);
  pool.parallel_for(95, 10, [&](std::int64_t begin, std::int64_t end, int) {
    lengths[static_cast<std::size_t>(begin)] = end - begin;
  });
  for (std::size_t i = 0; i < 90; ++i) EXPECT_TRUE(lengths[i] == 0 || lengths[i] >= 10) << i;
}

TEST(ThreadPool, WorkersHaveNumbersBelowThreads) {
  ThreadPool pool(3);
  std::vector<int> worker(300);
  pool.parallel_for(300, 1, [&](std::int64_t begin, std::int64_t end, int number) {
    for (std::int64_t i = begin; i < end; ++i) worker[static_cast<std::size_t>(i)] = number;
  });
  for (const int number : worker) EXPECT_TRUE(number >= 0 && number < 3);
}

TEST(ThreadPool, ThousandsOfLoopsOfManyMoreThreadsThanProcessorsEnd) {
  ThreadPool pool(16);
  std::vector<std::int64_t> sums(16);
  for (int loop = 0; loop < 3000; ++loop)
    pool.parallel_for(16, 1, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t i = begin; i < end; ++i) ++sums[static_cast<std::size_t>(i)];
    });
  EXPECT_EQ(std::accumulate(sums.begin(), sums.end(), std::int64_t{0}), 16 * 3000);
}

TEST(ThreadPool, WorkersThatFellAsleepWakeForTheNextLoop) {
  ThreadPool pool(4);
  std::vector<std::int64_t> sums(64);
  for (int loop = 0; loop < 200; ++loop) {
    // Longer than workers spin on some rounds, shorter on others.
    const auto over = std::chrono::steady_clock::now() + std::chrono::microseconds(loop);
    while (std::chrono::steady_clock::now() < over) {
    }
    pool.parallel_for(64, 1, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t i = begin; i < end; ++i) ++sums[static_cast<std::size_t>(i)];
    });
  }
  EXPECT_EQ(sums, std::vector<std::int64_t>(64, 200));
}

TEST(ThreadPool, SeveralPoolsWorkAtTheSameTime) {
  std::vector<std::thread> callers;
  std::vector<std::int64_t> sums(4);
  for (std::size_t c = 0; c < 4; ++c)
    callers.emplace_back([&sums, c] {
      ThreadPool pool(3);
      std::vector<std::int64_t> parts(50);
      for (int loop = 0; loop < 200; ++loop)
        pool.parallel_for(50, 1, [&](std::int64_t begin, std::int64_t end, int) {
          for (std::int64_t i = begin; i < end; ++i) ++parts[static_cast<std::size_t>(i)];
        });
      sums[c] = std::accumulate(parts.begin(), parts.end(), std::int64_t{0});
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sums, std::vector<std::int64_t>(4, 50 * 200));
}

TEST(ThreadPool, CountsOutOfRangeAreErrors) {
  EXPECT_THROW(ThreadPool(-1), Error);
  EXPECT_THROW(ThreadPool(100'000), Error);
}

}  // namespace
}  // namespace mamba2::cpu
