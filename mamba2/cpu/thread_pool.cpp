#include "mamba2/cpu/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <system_error>

#include "mamba2/base/error.h"

namespace mamba2::cpu {
namespace {

// About 50 microseconds: longer than the gap between two loops of a forward pass, shorter than a time slice.
constexpr int spins_before_sleep = 2000;
// A caller that waits for the last piece gives its processor away this soon: on a busy machine the thread that has the
// piece may be waiting for just this processor.
constexpr int spins_before_yield = 500;
// Pieces a thread: enough that a thread that lost its processor leaves little behind, few enough to cost nothing.
constexpr std::int64_t pieces_per_thread = 4;
constexpr int most_threads = 1024;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

int available_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(CPU_COUNT(&set), 1);
  return std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
}

ThreadPool::ThreadPool(int threads) {
  require(threads >= 0 && threads <= most_threads, "threads is {}, expected 0 to {}", threads, most_threads);
  const int wanted = threads == 0 ? available_processors() : threads;
  workers_.reserve(static_cast<std::size_t>(wanted - 1));
  try {
    for (int worker = 1; worker < wanted; ++worker) workers_.emplace_back([this, worker] { work(worker); });
  } catch (const std::system_error&) {
    // The system grants no more threads; those that it granted do all the work.
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  loops_.fetch_add(1);
  loops_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(std::int64_t count, std::int64_t grain, void* context, Function function) {
  if (count <= 0) return;
  const std::int64_t most_pieces = static_cast<std::int64_t>(threads()) * pieces_per_thread;
  const std::int64_t piece = std::max({grain, std::int64_t{1}, (count + most_pieces - 1) / most_pieces});
  const std::int64_t pieces = (count + piece - 1) / piece;
  if (pieces == 1 || workers_.empty()) {
    function(context, 0, count, 0);
    return;
  }
  // The ticket is shut before the fields change, so that a worker who saw the last loop's end can't claim a piece of it
  // by the new loop's count.
  const std::uint64_t loop = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(loop << 32 | 0xFFFFFFFFU, std::memory_order_relaxed);
  function_.store(function, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  count_.store(count, std::memory_order_relaxed);
  piece_.store(piece, std::memory_order_relaxed);
  pieces_.store(static_cast<std::uint32_t>(pieces), std::memory_order_release);
  unfinished_.store(static_cast<std::uint32_t>(pieces), std::memory_order_relaxed);
  ticket_.store(loop << 32, std::memory_order_release);
  loops_.fetch_add(1);
  loops_.notify_all();

  while (work_on_a_piece(0)) {
  }
  for (int spins = 0; unfinished_.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < spins_before_yield)
      relax();
    else
      sched_yield();
  }
}

bool ThreadPool::work_on_a_piece(int worker) {
  std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (true) {
    const auto piece = static_cast<std::uint32_t>(ticket);
    const Function function = function_.load(std::memory_order_relaxed);
    void* const context = context_.load(std::memory_order_relaxed);
    const std::int64_t count = count_.load(std::memory_order_relaxed);
    const std::int64_t length = piece_.load(std::memory_order_relaxed);
    if (piece >= pieces_.load(std::memory_order_acquire)) return false;
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire))
      continue;
    const std::int64_t begin = static_cast<std::int64_t>(piece) * length;
    function(context, begin, std::min(count, begin + length), worker);
    unfinished_.fetch_sub(1, std::memory_order_acq_rel);
    return true;
  }
}

void ThreadPool::work(int worker) {
  std::uint32_t seen = 0;
  while (!stop_.load(std::memory_order_acquire)) {
    const std::uint32_t now = loops_.load(std::memory_order_acquire);
    if (now != seen) {
      seen = now;
      while (work_on_a_piece(worker)) {
      }
      continue;
    }
    int spins = 0;
    while (loops_.load(std::memory_order_relaxed) == seen && spins < spins_before_sleep) {
      relax();
      ++spins;
    }
    if (spins == spins_before_sleep) loops_.wait(seen, std::memory_order_acquire);
  }
}

}  // namespace mamba2::cpu
