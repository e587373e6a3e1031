#include "mamba2/cpu/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <system_error>

#include "mamba2/base/error.h"
#include "mamba2/base/parallel.h"

namespace mamba2::cpu {
namespace {

// About 50 microseconds: longer than the gap between two loops of a forward pass, shorter than a time slice.
constexpr int spins_before_sleep = 2000;
// A caller that waits for the last piece gives its processor away this soon: on a busy machine the thread that has the
// piece may be waiting for just this processor.
constexpr int spins_before_yield = 500;
// Pieces a thread at most: enough that little is left to do while all but one are done, few enough to cost nothing.
constexpr std::int64_t pieces_per_thread = 16;
constexpr int most_threads = 1024;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr std::uint64_t first_of(std::uint64_t ticket) {
  return ticket & 0xFFFF;
}
constexpr std::uint64_t end_of(std::uint64_t ticket) {
  return ticket >> 16 & 0xFFFF;
}
constexpr std::uint64_t loop_of(std::uint64_t ticket) {
  return ticket >> 32;
}

/// Binds the calling thread to processor number `index` of those it may run on; where that is refused it stays free.
void bind_to_processor(int index) {
  cpu_set_t may;
  CPU_ZERO(&may);
  if (sched_getaffinity(0, sizeof may, &may) != 0) return;
  for (int processor = 0; processor < CPU_SETSIZE; ++processor) {
    if (!CPU_ISSET(processor, &may) || index-- != 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    (void)sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  require(threads >= 0 && threads <= most_threads, "threads is {}, expected 0 to {}", threads, most_threads);
  const int processors = available_processors();
  const int wanted = threads == 0 ? processors : threads;
  // Fewer threads than processors are left to the operating system, which knows where others run.
  const bool bind = wanted == processors;
  shares_ = std::vector<Share>(static_cast<std::size_t>(wanted));
  workers_.reserve(static_cast<std::size_t>(wanted - 1));
  try {
    for (int worker = 1; worker < wanted; ++worker)
      workers_.emplace_back([this, worker, bind] {
        if (bind) bind_to_processor(worker);
        work(worker);
      });
  } catch (const std::system_error&) {
    // The system grants no more threads; those that it granted do all the work.
  }
  threads_ = static_cast<int>(workers_.size()) + 1;
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  wakes_.fetch_add(1);
  wakes_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(std::int64_t count, std::int64_t grain, void* context, Function function) {
  if (count <= 0) return;
  const std::int64_t most_pieces = threads_ * pieces_per_thread;
  const std::int64_t piece = std::max({grain, std::int64_t{1}, (count + most_pieces - 1) / most_pieces});
  const std::int64_t pieces = (count + piece - 1) / piece;
  if (pieces == 1 || workers_.empty()) {
    function(context, 0, count, 0);
    return;
  }
  function_.store(function, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  count_.store(count, std::memory_order_relaxed);
  piece_.store(piece, std::memory_order_relaxed);
  unfinished_.store(pieces, std::memory_order_relaxed);
  loop_ = (loop_ + 1) & 0xFFFFFFFFU;
  for (std::int64_t thread = threads_ - 1; thread >= 0; --thread) {
    const auto first = static_cast<std::uint64_t>(pieces * thread / threads_);
    const auto end = static_cast<std::uint64_t>(pieces * (thread + 1) / threads_);
    shares_[static_cast<std::size_t>(thread)].ticket.store(loop_ << 32 | end << 16 | first, std::memory_order_release);
  }
  // A worker counts itself in before it looks at its share for the last time: of the two changes of sleepers_ the later
  // one sees what came before the earlier.
  if (sleepers_.fetch_add(0, std::memory_order_acq_rel) != 0) {
    wakes_.fetch_add(1, std::memory_order_release);
    wakes_.notify_all();
  }

  work_on_shares(0);
  for (int spins = 0; unfinished_.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < spins_before_yield)
      relax();
    else
      sched_yield();
  }
}

/// Its own share first, then the others', beginning with its neighbour.
void ThreadPool::work_on_shares(int worker) {
  for (int i = 0; i < threads_; ++i) {
    const int done = work_on_share((worker + i) % threads_, worker);
    if (done > 0) unfinished_.fetch_sub(done, std::memory_order_acq_rel);
  }
}

/// Pieces that were run.
int ThreadPool::work_on_share(int owner, int worker) {
  std::atomic<std::uint64_t>& share = shares_[static_cast<std::size_t>(owner)].ticket;
  int done = 0;
  std::uint64_t ticket = share.load(std::memory_order_acquire);
  while (first_of(ticket) < end_of(ticket)) {
    const Function function = function_.load(std::memory_order_relaxed);
    void* const context = context_.load(std::memory_order_relaxed);
    const std::int64_t count = count_.load(std::memory_order_relaxed);
    const std::int64_t length = piece_.load(std::memory_order_relaxed);
    if (!share.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire))
      continue;
    const std::int64_t begin = static_cast<std::int64_t>(first_of(ticket)) * length;
    function(context, begin, std::min(count, begin + length), worker);
    ++done;
    ticket = share.load(std::memory_order_acquire);
  }
  return done;
}

/// Returns the worker's ticket of another loop than `seen`, or any once the pool stops.
std::uint64_t ThreadPool::wait_for_loop(int worker, std::uint64_t seen) {
  const std::atomic<std::uint64_t>& share = shares_[static_cast<std::size_t>(worker)].ticket;
  std::uint64_t ticket = 0;
  auto nothing_new = [&] {
    ticket = share.load(std::memory_order_acquire);
    return loop_of(ticket) == loop_of(seen) && !stop_.load(std::memory_order_relaxed);
  };
  for (int spins = 0; nothing_new(); ++spins) {
    if (spins < spins_before_sleep) {
      relax();
      continue;
    }
    const std::uint32_t wakes = wakes_.load(std::memory_order_acquire);
    sleepers_.fetch_add(1, std::memory_order_acq_rel);
    if (nothing_new()) wakes_.wait(wakes, std::memory_order_acquire);
    sleepers_.fetch_sub(1, std::memory_order_acq_rel);
    spins = 0;
  }
  return ticket;
}

void ThreadPool::work(int worker) {
  std::uint64_t seen = 0;
  while (true) {
    seen = wait_for_loop(worker, seen);
    if (stop_.load(std::memory_order_acquire)) return;
    work_on_shares(worker);
  }
}

}  // namespace mamba2::cpu
