#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace mamba2 {

/// Objects keep the order of their file.
using Json = nlohmann::ordered_json;

/// Parses JSON from outside.  Beyond the standard it takes Infinity, -Infinity and NaN as Python writes them.  Throws
/// Error that starts with source (a file's name) and gives line and column for: malformed text, duplicate keys, nesting
/// deeper than max_depth, invalid UTF-8, anything after the value.
Json parse_json(std::string_view text, std::string_view source, int max_depth = 64);

/// Reads and parses a file; a file over max_bytes is refused before it is read.
Json read_json_file(const std::string& path, std::uint64_t max_bytes = 256ULL << 20);

}  // namespace mamba2
