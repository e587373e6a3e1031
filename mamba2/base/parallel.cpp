#include "mamba2/base/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace mamba2 {

int available_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(CPU_COUNT(&set), 1);
  return std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
}

void for_pieces(std::int64_t count, int threads, const std::function<void(std::int64_t, std::int64_t)>& work) {
  if (count <= 0) return;
  constexpr std::int64_t pieces_a_thread = 8;  // so that a thread that is held up leaves its share to the others
  const std::int64_t workers = std::min<std::int64_t>(threads > 0 ? threads : available_processors(), count);
  const std::int64_t step = std::max<std::int64_t>(1, count / (workers * pieces_a_thread));
  std::atomic<std::int64_t> next{0};
  std::exception_ptr error;
  std::mutex mutex;
  auto run = [&] {
    try {
      for (std::int64_t begin = next.fetch_add(step); begin < count; begin = next.fetch_add(step))
        work(begin, std::min(count, begin + step));
    } catch (...) {
      next = count;
      const std::scoped_lock lock(mutex);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  try {
    for (std::int64_t i = 1; i < workers; ++i) others.emplace_back(run);
  } catch (const std::system_error&) {  // no more threads to be had: those that there are do the work
  }
  run();
  for (std::thread& other : others) other.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace mamba2
