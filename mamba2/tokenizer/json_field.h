#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/base/json.h"

namespace mamba2 {

/// A value of a JSON file that knows its place in it, so that every error names file and field.
class JsonField {
 public:
  /// A value that isn't there is null.
  JsonField(const Json& value, std::string_view source, std::string path = {})
      : value_(value), source_(source), path_(std::move(path)) {}

  bool is_null() const { return value_.is_null(); }
  bool is_object() const { return value_.is_object(); }
  const std::string& path() const { return path_; }
  std::string_view source() const { return source_; }

  JsonField member(const std::string& name) const {
    static const Json absent;
    const auto found = value_.is_object() ? value_.find(name) : value_.end();
    return {found == value_.end() || !value_.is_object() ? absent : *found, source_,
            path_.empty() ? name : path_ + "." + name};
  }

  std::vector<JsonField> elements() const {
    if (!value_.is_array()) bad("a list");
    std::vector<JsonField> all;
    for (std::size_t i = 0; i < value_.size(); ++i)
      all.emplace_back(value_[i], source_, path_ + "[" + std::to_string(i) + "]");
    return all;
  }

  std::string string() const {
    if (!value_.is_string()) bad("a string");
    return value_.get<std::string>();
  }
  std::string string_or(std::string_view fallback) const { return is_null() ? std::string(fallback) : string(); }

  bool boolean() const {
    if (!value_.is_boolean()) bad("true or false");
    return value_.get<bool>();
  }
  bool boolean_or(bool fallback) const { return is_null() ? fallback : boolean(); }

  /// A whole number from 0 to max.
  std::int64_t count(std::int64_t max) const {
    const bool fits = value_.is_number_unsigned() && value_.get<std::uint64_t>() <= static_cast<std::uint64_t>(max);
    if (!fits) bad(fmt::format("a whole number from 0 to {}", max));
    return value_.get<std::int64_t>();
  }

  double number() const {
    if (!value_.is_number()) bad("a number");
    return value_.get<double>();
  }

  /// Throws Error: "FILE: PATH: WHAT".
  [[noreturn]] void fail_with(std::string_view what) const {
    fail("{}{}{}: {}", source_, path_.empty() ? "" : ": ", printable(path_), what);
  }

  [[noreturn]] void bad(std::string_view expected) const {
    fail_with(fmt::format("is {}, expected {}", is_null() ? "missing" : printable(value_.dump(), 80), expected));
  }

 private:
  const Json& value_;
  std::string_view source_;
  std::string path_;
};

}  // namespace mamba2
