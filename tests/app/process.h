#pragma once

#include <sys/resource.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace mamba2 {

struct ProcessResult {
  int exit_code = -1;  ///< -1 where a signal ended the program
  int signal = 0;      ///< that ended it
  std::string out, err;
  std::int64_t peak_bytes = 0;  ///< resident at most, mapped files included
};

/// How a program is run; what isn't set is as for any program.
struct RunOptions {
  std::string input;                                      ///< standard input
  rlim_t largest_file = RLIM_INFINITY;                    ///< bytes; writing past it fails, as on a full disk
  bool stdout_is_full = false;                            ///< standard output is /dev/full
  std::vector<std::string> environment;                   ///< NAME=VALUE on top of the test's own
  int signal = 0;                                         ///< sent once, when `when` says so
  std::function<bool(const ProcessResult& so_far)> when;  ///< asked again and again
  std::size_t close_stdout_after = std::numeric_limits<std::size_t>::max();  ///< bytes read from the pipe
};

/// Runs a program without a shell and waits for its end.  Ends it, and the test fails, after nine minutes.
ProcessResult run_process(const std::vector<std::string>& arguments, const RunOptions& options = {});

/// The mamba2 program of this build.
ProcessResult mamba2_command(std::vector<std::string> arguments, const RunOptions& options = {});

}  // namespace mamba2
