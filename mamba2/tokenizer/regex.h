#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

namespace mamba2 {

/// A regular expression as Hugging Face tokenizers' files hold it (Oniguruma's Ruby syntax), run by PCRE2.  Immutable;
/// usable from many threads.
class Regex {
 public:
  /// Throws Error that quotes the pattern and says what is wrong with it.
  explicit Regex(std::string_view pattern);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  /// Calls found(begin, end) for each match in valid UTF-8 text, left to right.  An empty match right behind the one
  /// before it doesn't count.  Throws Error where the pattern backtracks without end.
  void for_each_match(std::string_view text, const std::function<void(std::size_t, std::size_t)>& found) const;

 private:
  struct Compiled;
  std::unique_ptr<const Compiled> compiled_;
};

/// A text to be found as it is, not empty, or a regular expression.
using Pattern = std::variant<std::string, Regex>;

void for_each_match(const Pattern& pattern, std::string_view text,
                    const std::function<void(std::size_t, std::size_t)>& found);

}  // namespace mamba2
