#pragma once

#include <atomic>

namespace mamba2::app {

/// Ends a command with exit code 130, after what it had was written.
struct Interrupted {};

/// From now on Ctrl-C ends the process at once with exit code 130.
void end_at_interrupt();

/// From now on the first Ctrl-C sets the flag, a second one ends the process at once.
const std::atomic<bool>& catch_interrupts();

/// Throws Interrupted where Ctrl-C was pressed.
void check_interrupt();

}  // namespace mamba2::app
