#include "mamba2/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <array>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

constexpr std::array<spdlog::level::level_enum, 5> spdlog_levels{
    spdlog::level::debug, spdlog::level::info, spdlog::level::warn, spdlog::level::err, spdlog::level::off};

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>("mamba2", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("%^%l:%$ %v");
    made->set_level(spdlog::level::warn);
    return made;
  }();
  return *instance;
}

}  // namespace

void set_log_level(LogLevel level) {
  logger().set_level(spdlog_levels[static_cast<std::size_t>(level)]);
}

LogLevel log_level() {
  for (std::size_t i = 0; i < spdlog_levels.size(); ++i)
    if (spdlog_levels[i] == logger().level()) return static_cast<LogLevel>(i);
  return LogLevel::warning;
}

LogLevel parse_log_level(std::string_view name) {
  constexpr std::array<std::string_view, 5> names{"debug", "info", "warning", "error", "off"};
  for (std::size_t i = 0; i < names.size(); ++i)
    if (names[i] == name) return static_cast<LogLevel>(i);
  fail("log level is '{}', expected debug, info, warning, error or off", printable(name));
}

void log_line(LogLevel level, std::string_view message) {
  logger().log(spdlog_levels[static_cast<std::size_t>(level)], message);
}

}  // namespace mamba2
