#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace mamba2 {

/// A thread for each rank of a model but the first, whose work the caller does.
class RankThreads {
 public:
  /// on_failure is called once, by the first rank whose work fails: the others may wait for it.
  RankThreads(int ranks, std::function<void()> on_failure);
  RankThreads(const RankThreads&) = delete;
  RankThreads& operator=(const RankThreads&) = delete;
  ~RankThreads();

  /// Calls work(rank) for all ranks at once and returns when all are done.  Throws the error of the rank that failed
  /// first, and Error in all later calls.
  void run(const std::function<void(int)>& work);

 private:
  void serve(int rank);
  void work_as(int rank) noexcept;

  const std::function<void()> on_failure_;
  std::mutex mutex_;
  std::condition_variable called_, done_;
  const std::function<void(int)>* work_ = nullptr;
  std::uint64_t calls_ = 0;
  int unfinished_ = 0;
  bool stop_ = false;
  std::exception_ptr failure_;
  std::vector<std::thread> threads_;
};

}  // namespace mamba2
