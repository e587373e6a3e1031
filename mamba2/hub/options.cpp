#include "mamba2/hub/options.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"

namespace mamba2 {
namespace {

constexpr std::uint64_t max_token_file_bytes = 64 << 10;
constexpr int max_timeout_seconds = 24 * 3600;

/// The variable's value, nothing where it is unset or empty.
std::optional<std::string> value_of(const Environment& environment, const char* name) {
  auto value = environment(name);
  if (value && value->empty()) value.reset();
  return value;
}

bool is_true(const Environment& environment, const char* name) {
  std::string value = value_of(environment, name).value_or("");
  std::transform(value.begin(), value.end(), value.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

std::string home_directory(const Environment& environment) {
  if (auto home = value_of(environment, "HOME")) return *home;
  std::vector<char> buffer(16 << 10);
  passwd entry{};
  passwd* found = nullptr;
  if (::getpwuid_r(::getuid(), &entry, buffer.data(), buffer.size(), &found) == 0 && found != nullptr)
    return found->pw_dir;
  return "~";
}

std::string expand_user(const std::string& path, const Environment& environment) {
  if (path != "~" && !path.starts_with("~/")) return path;
  return home_directory(environment) + path.substr(1);
}

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/// $NAME and ${NAME}; what isn't set stays as it is, as in Python's os.path.expandvars.
std::string expand_variables(std::string_view path, const Environment& environment) {
  std::string out;
  while (!path.empty()) {
    const std::size_t dollar = path.find('$');
    out += path.substr(0, dollar);
    if (dollar == std::string_view::npos) break;
    path.remove_prefix(dollar);
    const bool braced = path.size() > 1 && path[1] == '{';
    const std::size_t begin = braced ? 2 : 1;
    std::size_t end = begin;
    while (end < path.size() && (braced ? path[end] != '}' : is_name_character(path[end]))) ++end;
    const std::string name(path.substr(begin, end - begin));
    const std::size_t length = std::min(path.size(), braced ? end + 1 : end);
    const auto value = name.empty() ? std::nullopt : environment(name.c_str());
    out += value ? std::string_view(*value) : path.substr(0, length);
    path.remove_prefix(length);
  }
  return out;
}

std::string expand(const std::string& path, const Environment& environment) {
  return expand_variables(expand_user(path, environment), environment);
}

std::string hub_home(const Environment& environment) {
  if (auto home = value_of(environment, "HF_HOME")) return expand(*home, environment);
  const std::string cache = value_of(environment, "XDG_CACHE_HOME").value_or("~/.cache");
  return expand(join_path(cache, "huggingface"), environment);
}

std::string cache_directory(const Environment& environment) {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"})
    if (auto cache = value_of(environment, name)) return expand(*cache, environment);
  return join_path(hub_home(environment), "hub");
}

/// Without line ends and surrounding blanks: a token is pasted by hand.
std::string clean_token(std::string token) {
  std::erase_if(token, [](char c) { return c == '\r' || c == '\n'; });
  const std::size_t begin = token.find_first_not_of(" \t");
  if (begin == std::string::npos) return {};
  return token.substr(begin, token.find_last_not_of(" \t") - begin + 1);
}

std::string token_of(const Environment& environment) {
  if (is_true(environment, "HF_HUB_DISABLE_IMPLICIT_TOKEN")) return {};
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
    if (auto token = value_of(environment, name)) return clean_token(*token);
  const auto named = value_of(environment, "HF_TOKEN_PATH");
  const std::string path = named ? expand(*named, environment) : join_path(hub_home(environment), "token");
  return file_exists(path) ? clean_token(read_file(path, max_token_file_bytes)) : std::string();
}

std::string endpoint_of(const Environment& environment, const std::string& fallback) {
  auto endpoint = value_of(environment, "HF_ENDPOINT");
  if (!endpoint) return fallback;
  require(endpoint->starts_with("https://") || endpoint->starts_with("http://"),
          "HF_ENDPOINT: is '{}', expected an address that starts with https:// or http://", printable(*endpoint));
  while (endpoint->back() == '/') endpoint->pop_back();
  return *endpoint;
}

std::chrono::seconds timeout_of(const Environment& environment, const char* name, std::chrono::seconds fallback) {
  const auto text = value_of(environment, name);
  if (!text) return fallback;
  int seconds = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), seconds);
  const bool whole = error == std::errc() && end == text->data() + text->size();
  require(whole && seconds >= 1 && seconds <= max_timeout_seconds, "{}: is '{}', expected seconds from 1 to {}", name,
          printable(*text), max_timeout_seconds);
  return std::chrono::seconds(seconds);
}

}  // namespace

Environment process_environment() {
  return [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    if (value == nullptr) return std::nullopt;
    return value;
  };
}

HubOptions hub_options_from_environment(const Environment& environment) {
  HubOptions options;
  options.cache_directory = cache_directory(environment);
  options.endpoint = endpoint_of(environment, options.endpoint);
  options.token = token_of(environment);
  options.ca_file = value_of(environment, "SSL_CERT_FILE").value_or("");
  options.offline = is_true(environment, "HF_HUB_OFFLINE") || is_true(environment, "TRANSFORMERS_OFFLINE");
  options.progress_bars = !is_true(environment, "HF_HUB_DISABLE_PROGRESS_BARS");
  options.connect_timeout = timeout_of(environment, "HF_HUB_ETAG_TIMEOUT", options.connect_timeout);
  options.stall_timeout = timeout_of(environment, "HF_HUB_DOWNLOAD_TIMEOUT", options.stall_timeout);
  return options;
}

}  // namespace mamba2
