#include "mamba2/app/interrupt.h"

#include <unistd.h>

#include <csignal>

namespace mamba2::app {
namespace {

constexpr int exit_code = 130;

std::atomic<bool> caught{false};       // the command looks at the flag
std::atomic<bool> interrupted{false};  // the flag
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

void on_interrupt(int) {
  if (!caught.load() || interrupted.exchange(true)) _exit(exit_code);
}

}  // namespace

void end_at_interrupt() {
  std::signal(SIGINT, on_interrupt);
}

const std::atomic<bool>& catch_interrupts() {
  caught.store(true);
  return interrupted;
}

void check_interrupt() {
  if (interrupted.load()) throw Interrupted{};
}

}  // namespace mamba2::app
