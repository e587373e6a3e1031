#include "mamba2/base/progress.h"

#include <fmt/core.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <utility>

namespace mamba2 {
namespace {

constexpr auto redraw_interval = std::chrono::milliseconds(100);
constexpr std::size_t default_columns = 80;
constexpr std::size_t bar_cells = 24;
constexpr std::string_view clear_line = "\r\x1b[K";

bool is_terminal(int descriptor) {
  const char* terminal = std::getenv("TERM");
  return ::isatty(descriptor) == 1 && (terminal == nullptr || std::string_view(terminal) != "dumb");
}

std::size_t columns_of(int descriptor) {
  winsize size{};
  if (::ioctl(descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return default_columns;
  return size.ws_col;
}

void write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(descriptor, text.data(), text.size());
    if (count <= 0) return;  // a bar that can't be drawn is no reason to stop the task
    text.remove_prefix(static_cast<std::size_t>(count));
  }
}

std::string format_amount(std::uint64_t amount, ProgressUnit unit) {
  return unit == ProgressUnit::bytes ? format_bytes(amount) : fmt::format("{}", amount);
}

std::string format_rate(double rate, ProgressUnit unit) {
  if (unit == ProgressUnit::bytes) return format_bytes(static_cast<std::uint64_t>(rate)) + "/s";
  return fmt::format("{:.{}f}/s", rate, rate < 10 ? 2 : 0);
}

std::string format_seconds(double seconds) {
  const auto whole = static_cast<std::uint64_t>(std::llround(seconds));
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

}  // namespace

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  constexpr std::array<std::string_view, 6> units = {"kB", "MB", "GB", "TB", "PB", "EB"};
  double value = static_cast<double>(bytes) / 1000;
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < units.size()) {
    value /= 1000;
    ++unit;
  }
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f} {}", value, decimals, units[unit]);
}

std::string progress_line(std::string_view label, const Progress& p, std::size_t columns) {
  std::string line(label);
  const auto append = [&](const std::string& part) {
    if (line.size() + part.size() <= columns) line += part;
  };
  if (p.total > 0) {
    const double share = std::min(1.0, static_cast<double>(p.done) / static_cast<double>(p.total));
    const auto filled = static_cast<std::size_t>(share * static_cast<double>(bar_cells));
    append(fmt::format(" {:3}%", static_cast<int>(share * 100)));
    append(fmt::format(" [{}{}]", std::string(filled, '='), std::string(bar_cells - filled, ' ')));
    append(fmt::format(" {} of {}", format_amount(p.done, p.unit), format_amount(p.total, p.unit)));
  } else {
    append(" " + format_amount(p.done, p.unit));
  }
  if (p.done > p.before && p.seconds > 0) {
    const double rate = static_cast<double>(p.done - p.before) / p.seconds;
    append(", " + format_rate(rate, p.unit));
    if (p.total > p.done)
      append(fmt::format(", {} left", format_seconds(static_cast<double>(p.total - p.done) / rate)));
  }
  line.resize(std::min(line.size(), columns));
  return line;
}

ProgressBar::ProgressBar(std::string label, std::uint64_t total, ProgressUnit unit, int descriptor,
                         Clock::duration delay)
    : label_(std::move(label)),
      descriptor_(descriptor),
      on_terminal_(is_terminal(descriptor)),
      start_(Clock::now()),
      next_draw_(start_ + delay) {
  progress_.total = total;
  progress_.unit = unit;
}

ProgressBar::~ProgressBar() {
  if (drawn_) write_all(descriptor_, clear_line);
}

void ProgressBar::start_from(std::uint64_t done) {
  progress_.done = progress_.before = done;
}

void ProgressBar::update(std::uint64_t done) {
  progress_.done = done;
  if (!on_terminal_) return;
  const Clock::time_point now = Clock::now();
  if (now < next_draw_) return;
  next_draw_ = now + redraw_interval;
  progress_.seconds = std::chrono::duration<double>(now - start_).count();
  draw();
}

void ProgressBar::draw() {
  // The last column stays empty: some terminals wrap a full line.
  const std::size_t columns = columns_of(descriptor_) - 1;
  write_all(descriptor_, fmt::format("{}{}", clear_line, progress_line(label_, progress_, columns)));
  drawn_ = true;
}

}  // namespace mamba2
