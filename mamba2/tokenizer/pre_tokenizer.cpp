#include "mamba2/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/tokenizer/byte_level.h"
#include "mamba2/tokenizer/unicode.h"
#include "mamba2/tokenizer/utf8.h"

namespace mamba2 {
namespace {

/// Part of a piece, matched by a pattern or between matches.
struct Range {
  std::size_t begin, end;
  bool matched;
};

class RangeList {
 public:
  explicit RangeList(std::vector<Range>& ranges) : ranges_(ranges) { ranges_.clear(); }

  void match(std::size_t begin, std::size_t end) {
    if (done_ != begin) ranges_.push_back({done_, begin, false});
    ranges_.push_back({begin, end, true});
    done_ = end;
  }
  void finish(std::size_t size) {
    if (done_ != size) ranges_.push_back({done_, size, false});
  }

 private:
  std::vector<Range>& ranges_;
  std::size_t done_ = 0;
};

void join_matches(std::vector<Range>& ranges, SplitBehavior behavior) {
  const bool backwards = behavior == SplitBehavior::merged_with_next;
  if (backwards) std::reverse(ranges.begin(), ranges.end());
  std::vector<Range> joined;
  bool previous = false;
  for (const Range& range : ranges) {
    const bool joins = behavior == SplitBehavior::contiguous ? range.matched == previous : range.matched && !previous;
    if (joins && !joined.empty()) {
      (backwards ? joined.back().begin : joined.back().end) = backwards ? range.begin : range.end;
    } else {
      joined.push_back(range);
    }
    previous = range.matched;
  }
  if (backwards) std::reverse(joined.begin(), joined.end());
  ranges.swap(joined);
}

/// Cuts a piece into ranges according to what its behavior makes of them.
void add_ranges(PieceList& list, const Piece& piece, std::vector<Range>& ranges, SplitBehavior behavior) {
  if (behavior != SplitBehavior::removed && behavior != SplitBehavior::isolated) join_matches(ranges, behavior);
  for (const Range& range : ranges) {
    if (behavior == SplitBehavior::removed && range.matched) continue;
    list.add({piece.text.substr(range.begin, range.end - range.begin), piece.starts_text && range.begin == 0});
  }
}

class Split : public PreTokenizer {
 public:
  Split(Pattern pattern, SplitBehavior behavior, SplitBy by)
      : pattern_(std::move(pattern)), behavior_(behavior), by_(by) {}

  void apply(PieceList& list) const override {
    std::vector<Range> ranges;
    for (const Piece& piece : list.pieces()) {
      RangeList found(ranges);
      for_each_match(pattern_, piece.text, [&](std::size_t begin, std::size_t end) { found.match(begin, end); });
      found.finish(piece.text.size());
      if (by_ == SplitBy::words)
        for (Range& range : ranges) range.matched = !range.matched;
      add_ranges(list, piece, ranges, behavior_);
    }
    list.replace();
  }

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  SplitBy by_;
};

class CharacterSplit : public PreTokenizer {
 public:
  CharacterSplit(std::function<bool(char32_t)> matches, SplitBehavior behavior)
      : matches_(std::move(matches)), behavior_(behavior) {}

  void apply(PieceList& list) const override {
    std::vector<Range> ranges;
    for (const Piece& piece : list.pieces()) {
      RangeList found(ranges);
      for (std::size_t at = 0; at < piece.text.size();) {
        const CodePoint next = decode_valid_utf8(piece.text, at);
        if (matches_(next.value)) found.match(at, at + next.size);
        at += next.size;
      }
      found.finish(piece.text.size());
      add_ranges(list, piece, ranges, behavior_);
    }
    list.replace();
  }

 private:
  std::function<bool(char32_t)> matches_;
  SplitBehavior behavior_;
};

class WhitespaceSplit : public PreTokenizer {
 public:
  void apply(PieceList& list) const override {
    for (const Piece& piece : list.pieces()) {
      std::size_t begin = 0;
      Kind open = Kind::space;
      for (std::size_t at = 0; at < piece.text.size();) {
        const CodePoint next = decode_valid_utf8(piece.text, at);
        const Kind kind = kind_of(next.value);
        if (kind != open) {
          add(list, piece, begin, at, open);
          begin = at;
          open = kind;
        }
        at += next.size;
      }
      add(list, piece, begin, piece.text.size(), open);
    }
    list.replace();
  }

 private:
  enum class Kind { space, word, other };

  static Kind kind_of(char32_t character) {
    if (is_word(character)) return Kind::word;
    return is_whitespace(character) ? Kind::space : Kind::other;
  }

  static void add(PieceList& list, const Piece& piece, std::size_t begin, std::size_t end, Kind kind) {
    if (kind != Kind::space) list.add({piece.text.substr(begin, end - begin), piece.starts_text && begin == 0});
  }
};

class ByteLevel : public PreTokenizer {
 public:
  explicit ByteLevel(ByteLevelOptions options) : options_(options) {}

  void apply(PieceList& list) const override {
    for (const Piece& piece : list.pieces()) {
      std::string_view text = piece.text;
      if (options_.add_prefix_space && text.front() != ' ') text = list.own(" " + std::string(text));
      if (!options_.use_regex) {
        add(list, text, piece.starts_text);
        continue;
      }
      split_gpt2(text, [&](std::size_t begin, std::size_t end) {
        add(list, text.substr(begin, end - begin), piece.starts_text && begin == 0);
      });
    }
    list.replace();
  }

 private:
  void add(PieceList& list, std::string_view text, bool starts_text) const {
    list.add({options_.write_bytes ? list.own(to_byte_level(text)) : text, starts_text});
  }

  ByteLevelOptions options_;
};

class Metaspace : public PreTokenizer {
 public:
  explicit Metaspace(MetaspaceOptions options) : options_(std::move(options)), pattern_(options_.replacement) {}

  void apply(PieceList& list) const override {
    std::vector<Range> ranges;
    for (const Piece& piece : list.pieces()) {
      const std::string_view text = list.own(replaced(piece));
      if (!options_.split) {
        list.add({text, piece.starts_text});
        continue;
      }
      RangeList found(ranges);
      for_each_match(pattern_, text, [&](std::size_t begin, std::size_t end) { found.match(begin, end); });
      found.finish(text.size());
      add_ranges(list, {text, piece.starts_text}, ranges, SplitBehavior::merged_with_next);
    }
    list.replace();
  }

 private:
  std::string replaced(const Piece& piece) const {
    std::string out;
    out.reserve(piece.text.size() + piece.text.size() / 2);
    const bool has_one = piece.text.front() == ' ' || piece.text.starts_with(options_.replacement);
    const bool wants_one = options_.prepend_scheme == PrependScheme::always ||
                           (options_.prepend_scheme == PrependScheme::first && piece.starts_text);
    if (wants_one && !has_one) out += options_.replacement;
    for (const char c : piece.text) {
      if (c == ' ')
        out += options_.replacement;
      else
        out += c;
    }
    return out;
  }

  MetaspaceOptions options_;
  Pattern pattern_;
};

class PreTokenizerSequence : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(std::vector<PreTokenizerPtr> steps) : steps_(std::move(steps)) {}
  void apply(PieceList& list) const override {
    for (const auto& step : steps_) step->apply(list);
  }

 private:
  std::vector<PreTokenizerPtr> steps_;
};

}  // namespace

void PieceList::reset(Piece whole) {
  pieces_.clear();
  next_.clear();
  if (!whole.text.empty()) pieces_.push_back(whole);
}

std::string_view PieceList::own(std::string text) {
  owned_bytes_ += text.size();
  require(owned_bytes_ <= own_limit_, "the normalizer and pre_tokenizer make a text grow beyond {} bytes", own_limit_);
  return owned_.emplace_back(std::move(text));
}

PreTokenizerPtr make_split(Pattern pattern, SplitBehavior behavior, SplitBy by) {
  return std::make_unique<Split>(std::move(pattern), behavior, by);
}

PreTokenizerPtr make_character_split(std::function<bool(char32_t)> matches, SplitBehavior behavior) {
  return std::make_unique<CharacterSplit>(std::move(matches), behavior);
}

PreTokenizerPtr make_whitespace_split() {
  return std::make_unique<WhitespaceSplit>();
}

PreTokenizerPtr make_byte_level(ByteLevelOptions options) {
  return std::make_unique<ByteLevel>(options);
}

PreTokenizerPtr make_metaspace(MetaspaceOptions options) {
  return std::make_unique<Metaspace>(std::move(options));
}

PreTokenizerPtr make_pre_tokenizer_sequence(std::vector<PreTokenizerPtr> steps) {
  return std::make_unique<PreTokenizerSequence>(std::move(steps));
}

}  // namespace mamba2
