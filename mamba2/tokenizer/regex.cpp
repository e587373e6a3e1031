#include "mamba2/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <optional>

#include "mamba2/base/error.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

/// Tries per match before a pattern counts as hung: about a second.
constexpr std::uint32_t match_limit = 5'000'000;
/// KiB for the interpreter's backtracking, where there is no JIT.
constexpr std::uint32_t heap_limit = 32 * 1024;
constexpr std::size_t jit_stack_start = 32 * 1024, jit_stack_max = 4 * 1024 * 1024;
/// Patterns in use are under 1 KiB.
constexpr std::size_t max_pattern_bytes = 64 * 1024;

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* value) const {
    Free(value);
  }
};
using MatchData = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Deleter<pcre2_compile_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Deleter<pcre2_jit_stack_free>>;

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

/// What a class escape means to Oniguruma, as the inside of a bracket; PCRE2 reads these escapes differently.
std::optional<std::string_view> class_of_escape(char escape) {
  switch (escape) {
    case 's': return "\\t-\\r\\x{85}\\p{Z}";
    case 'w': return "\\p{L}\\p{M}\\p{N}\\p{Pc}";
    case 'h': return "0-9a-fA-F";
    default: return std::nullopt;
  }
}

/// Oniguruma's Ruby syntax written as PCRE2's, where the two differ.
std::string translate(std::string_view pattern) {
  std::string out;
  int brackets = 0;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c != '\\' || i + 1 == pattern.size()) {
      if (c == '[') ++brackets;
      if (c == ']' && brackets > 0) --brackets;
      const bool intersects = brackets > 0 && pattern.substr(i, 2) == "&&";
      require(!intersects, "pattern '{}': intersections of classes (&&) are not supported", printable(pattern));
      out += c;
      continue;
    }
    const char escape = pattern[++i];
    const auto meaning = class_of_escape(escape);
    const auto negated = class_of_escape(escape == 'S' ? 's' : escape == 'W' ? 'w' : escape == 'H' ? 'h' : '\0');
    if (meaning && brackets > 0) {
      out += *meaning;
    } else if (meaning) {
      out.append("[").append(*meaning).append("]");
    } else if (negated && brackets == 0) {
      out.append("[^").append(*negated).append("]");
    } else {
      out += c;
      out += escape;
    }
  }
  return out;
}

}  // namespace

struct Regex::Compiled {
  std::string pattern;
  std::unique_ptr<pcre2_code, Deleter<pcre2_code_free>> code;
  bool has_jit = false;
};

Regex::Regex(std::string_view pattern) {
  require(pattern.size() <= max_pattern_bytes, "a pattern has {} bytes, expected at most {}", pattern.size(),
          max_pattern_bytes);
  const std::string translated = translate(pattern);
  const CompileContext context(pcre2_compile_context_create(nullptr));
  pcre2_set_parens_nest_limit(context.get(), 64);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto compiled = std::make_unique<Compiled>();
  compiled->pattern = pattern;
  compiled->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                     context.get()));
  if (!compiled->code) fail("pattern '{}': {}", printable(pattern), message_of(error));
  compiled->has_jit = pcre2_jit_compile(compiled->code.get(), PCRE2_JIT_COMPLETE) == 0;
  compiled_ = std::move(compiled);
}

Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

void Regex::for_each_match(std::string_view text, const std::function<void(std::size_t, std::size_t)>& found) const {
  const pcre2_code* code = compiled_->code.get();
  const MatchData data(pcre2_match_data_create(1, nullptr));
  const MatchContext context(pcre2_match_context_create(nullptr));
  const JitStack stack(compiled_->has_jit ? pcre2_jit_stack_create(jit_stack_start, jit_stack_max, nullptr) : nullptr);
  if (stack) pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  pcre2_set_match_limit(context.get(), match_limit);
  pcre2_set_heap_limit(context.get(), heap_limit);
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  std::optional<std::size_t> last_end;
  std::size_t at = 0;
  while (at <= text.size()) {
    const int result = pcre2_match(code, subject, text.size(), at, PCRE2_NO_UTF_CHECK, data.get(), context.get());
    if (result == PCRE2_ERROR_NOMATCH) return;
    if (result < 0) fail("pattern '{}' can't be run: {}", printable(compiled_->pattern), message_of(result));
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
    // \K in a lookaround may put the start behind the end.
    require(bounds[0] <= bounds[1] && bounds[0] >= last_end.value_or(0),
            "pattern '{}' matches text it has passed already", printable(compiled_->pattern));
    if (bounds[0] == bounds[1] && last_end == bounds[1]) {
      at = bounds[1] < text.size() ? bounds[1] + decode_valid_utf8(text, bounds[1]).size : text.size() + 1;
      continue;
    }
    at = bounds[1];
    last_end = at;
    found(bounds[0], bounds[1]);
  }
}

void for_each_match(const Pattern& pattern, std::string_view text,
                    const std::function<void(std::size_t, std::size_t)>& found) {
  if (const auto* regex = std::get_if<Regex>(&pattern)) {
    regex->for_each_match(text, found);
    return;
  }
  const auto& literal = std::get<std::string>(pattern);
  for (std::size_t at = text.find(literal); at != std::string_view::npos; at = text.find(literal, at)) {
    found(at, at + literal.size());
    at += literal.size();
  }
}

}  // namespace mamba2
