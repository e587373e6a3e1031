#pragma once

#include <string>
#include <string_view>

namespace mamba2 {

/// A model on the Hub.
struct HubName {
  std::string model;              // ORG/NAME
  std::string revision = "main";  // a branch, a tag or a commit's full hash
};

/// Whether the text is ORG/NAME or ORG/NAME@REVISION by the Hub's rules: each part of the name is 1 to 96 of A-Z a-z
/// 0-9
/// - _ . and neither starts nor ends with - or .; no "--", no "..", no ".git" at the end.  The revision is a name that
/// git allows.  Whether a local path of that name exists is for the caller to ask first.
bool looks_like_hub_name(std::string_view text);

/// Throws Error that quotes the text unless looks_like_hub_name() holds.
HubName parse_hub_name(std::string_view text);

/// 40 lower-case hexadecimal digits.
bool is_commit_hash(std::string_view text);

/// Whether a file's name, as a server or an index gives it, stays inside its folder: relative, no "..", "." or empty
/// component, no control character or backslash, at most 255 bytes.
bool is_safe_file_name(std::string_view name);

}  // namespace mamba2
