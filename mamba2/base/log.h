#pragma once

#include <fmt/core.h>

#include <string_view>
#include <utility>

namespace mamba2 {

enum class LogLevel { debug, info, warning, error, off };

/// Lines below this level are dropped.  Default: warning.
void set_log_level(LogLevel level);
LogLevel log_level();

/// "debug", "info", "warning", "error" or "off"; throws Error for anything else.
LogLevel parse_log_level(std::string_view name);

/// Writes one line to stderr.
void log_line(LogLevel level, std::string_view message);

template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  if (log_level() <= LogLevel::debug) log_line(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  if (log_level() <= LogLevel::info) log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  if (log_level() <= LogLevel::warning) log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace mamba2
