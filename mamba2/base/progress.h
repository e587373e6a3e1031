#pragma once

#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mamba2 {

enum class ProgressUnit { items, bytes };

struct Progress {
  std::uint64_t done = 0;
  std::uint64_t total = 0;   // 0: unknown
  std::uint64_t before = 0;  // part of done that was there at the start and says nothing about speed
  double seconds = 0;        // since the start
  ProgressUnit unit = ProgressUnit::items;
};

/// One line of ASCII, at most columns wide: label, share, bar, amount, rate and time left, as far as they are known and
/// fit.
std::string progress_line(std::string_view label, const Progress& progress, std::size_t columns);

/// "812 B", "1.5 kB", "4.98 GB": three digits, powers of 1000.
std::string format_bytes(std::uint64_t bytes);

/// A line on stderr that shows how far a long task is: only on a terminal, only once the task has taken a second, at
/// most ten times a second, gone when the object is.  For one thread; update() is cheap enough for an inner loop.
class ProgressBar {
 public:
  using Clock = std::chrono::steady_clock;

  ProgressBar(std::string label, std::uint64_t total, ProgressUnit unit, int descriptor = STDERR_FILENO,
              Clock::duration delay = std::chrono::seconds(1));
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar();

  /// Where the task starts if that isn't 0: a resumed download.
  void start_from(std::uint64_t done);
  void set_total(std::uint64_t total) { progress_.total = total; }
  void update(std::uint64_t done);

 private:
  void draw();

  std::string label_;
  Progress progress_;
  int descriptor_;
  bool on_terminal_;
  bool drawn_ = false;
  Clock::time_point start_;
  Clock::time_point next_draw_;
};

}  // namespace mamba2
