#include "mamba2/checkpoint/json_visitor.h"

#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

/// The parser holds a token (and the white space before it) several times over; beyond this it would hold too much.
constexpr std::size_t max_token_bytes = 4U << 20;

bool is_structural(char c) {
  return c == '{' || c == '}' || c == '[' || c == ']' || c == ',' || c == ':';
}

void require_short_tokens(std::string_view text, const std::string& source) {
  bool in_string = false;
  std::size_t start = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    require(i - start <= max_token_bytes, "{}: JSON has a string or a gap of more than {} bytes at byte {}", source,
            max_token_bytes, start);
    const char c = text[i];
    if (in_string && c == '\\') {
      ++i;
    } else if (c == '"') {
      in_string = !in_string;
    } else if (!in_string && is_structural(c)) {
      start = i;
    }
  }
}

/// Passes nlohmann's events on.
class Adapter {
 public:
  Adapter(std::string_view text, JsonVisitor& visitor) : text_(text), visitor_(visitor) {}

  bool null() {
    visitor_.null();
    return true;
  }
  bool boolean(bool) {
    visitor_.boolean();
    return true;
  }
  bool number_integer(std::int64_t) {
    visitor_.negative_integer();
    return true;
  }
  bool number_unsigned(std::uint64_t value) {
    visitor_.unsigned_integer(value);
    return true;
  }
  bool number_float(double, const std::string&) {
    visitor_.real();
    return true;
  }
  bool string(const std::string& value) {
    visitor_.string(value);
    return true;
  }
  bool start_object(std::size_t) {
    visitor_.start_object();
    return true;
  }
  bool key(const std::string& name) {
    visitor_.key(name);
    return true;
  }
  bool end_object() {
    visitor_.end_object();
    return true;
  }
  bool start_array(std::size_t) {
    visitor_.start_array();
    return true;
  }
  bool end_array() {
    visitor_.end_array();
    return true;
  }
  static bool binary(const std::vector<std::uint8_t>&) { return false; }

  bool parse_error(std::size_t offset, const std::string& token, const nlohmann::detail::exception&) {
    if (offset > text_.size()) fail("{}: JSON ends too early", visitor_.source());
    fail("{}: malformed JSON at byte {}, near '{}'", visitor_.source(), offset, printable(token, 40));
  }

 private:
  std::string_view text_;
  JsonVisitor& visitor_;
};

}  // namespace

void JsonVisitor::unexpected(std::string_view what) const {
  fail("{}: {}, found {}", source_, expected(), what);
}

void visit_json(std::string_view text, JsonVisitor& visitor) {
  while (!text.empty() && (text.back() == ' ' || text.back() == '\n')) text.remove_suffix(1);
  require_short_tokens(text, visitor.source());
  Adapter adapter(text, visitor);
  nlohmann::json::sax_parse(text, &adapter);
}

}  // namespace mamba2
