#include "mamba2/base/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"

namespace mamba2 {
namespace {

struct Position {
  std::size_t line = 1, column = 1;
};

Position position_of(std::string_view text, std::size_t offset) {
  Position at;
  for (std::size_t i = 0; i < offset && i < text.size(); ++i) {
    if (text[i] == '\n') {
      ++at.line;
      at.column = 1;
    } else {
      ++at.column;
    }
  }
  return at;
}

/// Overflows to infinity in every JSON parser that follows IEEE 754; nlohmann's refuses it, so the words become this
/// object, which HuggingFace's own writer uses too, and the handler below turns it back into a number.
constexpr std::string_view float_key = "__float__";

bool is_word_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/// Python's json writes Infinity, -Infinity and NaN bare; each becomes {"__float__": "..."}.
std::string with_wrapped_infinities(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      out += c;
      if (c == '\\' && i + 1 < text.size()) out += text[++i];
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    bool replaced = false;
    for (const std::string_view word : {"-Infinity", "Infinity", "NaN"}) {
      if (text.substr(i, word.size()) != word) continue;
      const bool ends = i + word.size() >= text.size() || !is_word_character(text[i + word.size()]);
      if (!ends || (i > 0 && is_word_character(text[i - 1]))) continue;
      out += fmt::format("{{\"{}\":\"{}\"}}", float_key, word);
      i += word.size() - 1;
      replaced = true;
      break;
    }
    if (!replaced) out += c;
  }
  return out;
}

/// Builds the document while it counts depth and looks for repeated keys.
class Builder {
 public:
  Builder(std::string_view text, std::string_view source, int max_depth)
      : text_(text), source_(source), max_depth_(max_depth) {}

  Json take() { return std::move(root_); }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(std::int64_t value) { return add(value); }
  bool number_unsigned(std::uint64_t value) { return add(value); }
  bool number_float(double value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    if (!keys_.back().insert(name).second) fail("{}: duplicate key '{}'", source_, printable(name));
    key_ = std::move(name);
    return true;
  }

  bool end_object() {
    unwrap_float(*open_.back());
    return close();
  }

  bool parse_error(std::size_t offset, const std::string&, const nlohmann::detail::exception& e) {
    const Position at = position_of(text_, offset == 0 ? 0 : offset - 1);  // offset counts what was read
    std::string_view what = e.what();
    if (const auto colon = what.find("syntax error"); colon != std::string_view::npos) what.remove_prefix(colon);
    fail("{}: line {}, column {}: {}", source_, at.line, at.column, printable(what));
  }

 private:
  template <class Value>
  bool add(Value&& value) {
    place(Json(std::forward<Value>(value)));
    return true;
  }

  bool open(Json container) {
    if (static_cast<int>(open_.size()) >= max_depth_)
      fail("{}: JSON is nested deeper than {} levels", source_, max_depth_);
    Json* placed = place(std::move(container));
    open_.push_back(placed);
    keys_.emplace_back();
    return true;
  }

  bool close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    // ordered_json's operator[] looks through all members first; the key is known to be new.
    auto& members = parent.get_ref<Json::object_t&>();
    members.Container::emplace_back(std::move(key_), std::move(value));
    return &members.back().second;
  }

  static void unwrap_float(Json& object) {
    if (object.size() != 1 || object.begin().key() != float_key || !object.begin()->is_string()) return;
    const auto word = object.begin()->get<std::string>();
    constexpr double infinity = std::numeric_limits<double>::infinity();
    if (word == "Infinity")
      object = infinity;
    else if (word == "-Infinity")
      object = -infinity;
    else if (word == "NaN")
      object = std::numeric_limits<double>::quiet_NaN();
  }

  std::string_view text_;
  std::string_view source_;
  int max_depth_;
  Json root_;
  std::vector<Json*> open_;
  std::vector<std::set<std::string>> keys_;
  std::string key_;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view source, int max_depth) {
  const bool has_words = text.find("Infinity") != std::string_view::npos || text.find("NaN") != std::string_view::npos;
  const std::string wrapped = has_words ? with_wrapped_infinities(text) : std::string();
  const std::string_view parsed = has_words ? std::string_view(wrapped) : text;
  Builder builder(parsed, source, max_depth);
  Json::sax_parse(parsed, &builder);
  return builder.take();
}

Json read_json_file(const std::string& path, std::uint64_t max_bytes) {
  const MappedFile file(path);
  require(file.size() <= max_bytes, "{}: is {} bytes, expected at most {}", path, file.size(), max_bytes);
  return parse_json(file.text(), path);
}

}  // namespace mamba2
