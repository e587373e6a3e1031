#include "mamba2/checkpoint/json_visitor.h"

#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

/// The parser keeps, several times over, what it has read since the last string began or ended; beyond this it would
/// keep too much.
constexpr std::size_t max_gap_bytes = 4U << 20;

void require_short_gaps(std::string_view text, const std::string& source) {
  bool in_string = false;
  std::size_t start = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    require(i - start <= max_gap_bytes, "{}: JSON has {} of more than {} bytes at byte {}", source,
            in_string ? "a string" : "a stretch without strings", max_gap_bytes, start);
    if (in_string && text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      in_string = !in_string;
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
  require_short_gaps(text, visitor.source());
  Adapter adapter(text, visitor);
  nlohmann::json::sax_parse(text, &adapter);
}

}  // namespace mamba2
