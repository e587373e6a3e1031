#include "mamba2/hub/name.h"

#include <algorithm>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

constexpr std::size_t max_part_length = 96;
constexpr std::size_t max_revision_length = 200;  // it becomes a file's name
constexpr std::size_t max_file_name_length = 255;

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

bool is_word_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

bool is_name_part(std::string_view part) {
  if (part.empty() || part.size() > max_part_length) return false;
  if (!is_word_character(part.front()) || !is_word_character(part.back())) return false;
  return std::all_of(part.begin(), part.end(), [](char c) { return is_word_character(c) || c == '-' || c == '.'; });
}

bool is_model_name(std::string_view name) {
  const std::size_t slash = name.find('/');
  if (slash == std::string_view::npos) return false;
  if (!is_name_part(name.substr(0, slash)) || !is_name_part(name.substr(slash + 1))) return false;
  return !contains(name, "--") && !contains(name, "..") && !name.ends_with(".git");
}

/// Every component between slashes satisfies the predicate; an empty name has one empty component.
template <class Predicate>
bool all_components(std::string_view name, Predicate predicate) {
  for (;;) {
    const std::size_t slash = name.find('/');
    if (!predicate(name.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    name.remove_prefix(slash + 1);
  }
}

/// git-check-ref-format(1), a little narrower.
bool is_revision(std::string_view revision) {
  if (revision.size() > max_revision_length || revision.starts_with('-') || contains(revision, "..")) return false;
  constexpr std::string_view forbidden = " ~^:?*[\\@";
  const bool clean = std::all_of(revision.begin(), revision.end(), [&](char c) {
    return c > 0x20 && c < 0x7f && forbidden.find(c) == std::string_view::npos;
  });
  return clean && all_components(revision, [](std::string_view part) {
           return !part.empty() && !part.starts_with('.') && !part.ends_with('.') && !part.ends_with(".lock");
         });
}

}  // namespace

bool looks_like_hub_name(std::string_view text) {
  const std::size_t at = text.find('@');
  return is_model_name(text.substr(0, at)) && (at == std::string_view::npos || is_revision(text.substr(at + 1)));
}

HubName parse_hub_name(std::string_view text) {
  require(looks_like_hub_name(text), "'{}': is no Hub name, expected ORG/NAME or ORG/NAME@REVISION", printable(text));
  const std::size_t at = text.find('@');
  HubName name{.model = std::string(text.substr(0, at))};
  if (at != std::string_view::npos) name.revision = text.substr(at + 1);
  return name;
}

bool is_commit_hash(std::string_view text) {
  return text.size() == 40 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool is_safe_file_name(std::string_view name) {
  if (name.size() > max_file_name_length) return false;
  const bool clean = std::all_of(
      name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f && c != '\\'; });
  return clean &&
         all_components(name, [](std::string_view part) { return !part.empty() && part != "." && part != ".."; });
}

}  // namespace mamba2
