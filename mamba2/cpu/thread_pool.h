#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace mamba2::cpu {

/// Persistent threads that share the pieces of one loop at a time.  Each thread has a share of the pieces, the same
/// part of equal loops, and takes from the others' when its own is done; a piece is waited for only once somebody took
/// it: a worker that the operating system does not run holds nobody up.  Workers spin a while for the next loop, then
/// sleep.  A pool of all processors binds each worker to one of them; the caller's own affinity is left alone.  Which
/// thread runs a piece is left to chance, so a loop's results must not depend on it.  Belongs to one calling thread at
/// a time.
class ThreadPool {
 public:
  /// threads includes the caller; 0: one for each available processor.
  explicit ThreadPool(int threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int threads() const { return threads_; }

  /// Calls body(begin, end, worker) for ranges that cover [0, count) without overlap, none shorter than `grain` but
  /// the last; worker in [0, threads()) is a different one for each thread.  A loop of one piece runs in the caller.
  /// body must not throw, nor call the pool.
  template <class Body>
  void parallel_for(std::int64_t count, std::int64_t grain, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run(count, grain, const_cast<void*>(static_cast<const void*>(&body)),
        [](void* context, std::int64_t begin, std::int64_t end, int worker) {
          (*static_cast<Plain*>(context))(begin, end, worker);
        });
  }

 private:
  using Function = void (*)(void* context, std::int64_t begin, std::int64_t end, int worker);

  /// A thread's share of the loop at hand: its number << 32 | end << 16 | next, next == end where none is left.  The
  /// number changes with every loop, so nobody can claim a piece by what he read of an earlier one.
  struct alignas(64) Share {
    std::atomic<std::uint64_t> ticket{0};
  };

  void run(std::int64_t count, std::int64_t grain, void* context, Function function);
  void work_on_shares(int worker);
  int work_on_share(int owner, int worker);
  std::uint64_t wait_for_loop(int worker, std::uint64_t seen);
  void work(int worker);

  // The loop at hand, written while every share is empty.  Atomic since a late worker may look meanwhile; what it reads
  // counts only if its claim of a piece succeeds.
  std::atomic<Function> function_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<std::int64_t> count_{0};
  std::atomic<std::int64_t> piece_{1};
  std::uint64_t loop_ = 0;

  alignas(64) std::atomic<std::int64_t> unfinished_{0};  // pieces
  alignas(64) std::atomic<std::uint32_t> sleepers_{0};
  std::atomic<std::uint32_t> wakes_{0};  // what sleeping workers wait on
  std::atomic<bool> stop_{false};
  int threads_ = 1;
  std::vector<Share> shares_;  // one a thread, the caller's first
  std::vector<std::thread> workers_;
};

}  // namespace mamba2::cpu
