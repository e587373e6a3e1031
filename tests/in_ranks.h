#pragma once

#include <functional>
#include <thread>
#include <vector>

namespace mamba2::test {

/// Calls work(rank) for so many ranks at once, each in a thread of its own, which must not throw.
inline void in_ranks(int ranks, const std::function<void(int)>& work) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) threads.emplace_back([&work, rank] { work(rank); });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace mamba2::test
