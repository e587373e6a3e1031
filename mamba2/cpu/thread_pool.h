#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace mamba2::cpu {

/// Processors that this process may run on.
int available_processors();

/// Persistent threads that share the pieces of one loop at a time.  The caller works too, and a piece is waited for
/// only once somebody took it: a worker that the operating system does not run holds nobody up.  Workers spin a while
/// for the next loop, then sleep.  Which thread runs a piece is left to chance, so a loop's results must not depend on
/// it.  Belongs to one calling thread at a time.
class ThreadPool {
 public:
  /// threads includes the caller; 0: one for each available processor.
  explicit ThreadPool(int threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(begin, end, worker) for ranges that cover [0, count) without overlap, none shorter than `grain` but
  /// the last; worker in [0, threads()) is a different one for each thread.  body must not throw, nor call the pool.
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

  void run(std::int64_t count, std::int64_t grain, void* context, Function function);
  bool work_on_a_piece(int worker);
  void work(int worker);

  // The loop at hand.  Atomic since a late worker may look while the next loop is written; what it reads counts only
  // if its claim of a piece (a compare-and-swap of ticket_, which holds the loop's number) succeeds.
  std::atomic<Function> function_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<std::int64_t> count_{0};
  std::atomic<std::int64_t> piece_{1};
  std::atomic<std::uint32_t> pieces_{0};

  alignas(64) std::atomic<std::uint64_t> ticket_{0};  // number of the loop << 32 | next piece
  alignas(64) std::atomic<std::uint32_t> unfinished_{0};
  alignas(64) std::atomic<std::uint32_t> loops_{0};  // what sleeping workers wait on
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace mamba2::cpu
