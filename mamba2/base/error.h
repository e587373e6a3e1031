#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace mamba2 {

/// The one exception the library throws for anything at fault outside it: a file, a tensor, a field, an argument, a
/// device.  The message is one line that names the culprit and says what was expected and what was found.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws Error with a message in fmt's syntax.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws Error unless the condition holds.
template <class... Args>
void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) fail(format, std::forward<Args>(args)...);
}

/// Text from outside made fit for a one-line message: control characters and invalid UTF-8 escaped as \xNN, cut to
/// max_bytes with "..." at the end.
std::string printable(std::string_view text, std::size_t max_bytes = 200);

/// What the system calls an error number, as "No such file or directory".
std::string error_text(int code);

}  // namespace mamba2
