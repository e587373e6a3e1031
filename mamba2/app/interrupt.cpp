#include "mamba2/app/interrupt.h"

#include <csignal>

namespace mamba2::app {
namespace {

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

void on_interrupt(int signal) {
  interrupted.store(true);
  std::signal(signal, SIG_DFL);
}

}  // namespace

const std::atomic<bool>& catch_interrupts() {
  std::signal(SIGINT, on_interrupt);
  return interrupted;
}

void check_interrupt() {
  if (interrupted.load()) throw Interrupted{};
}

}  // namespace mamba2::app
