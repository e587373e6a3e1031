#include "mamba2/tokenizer/tokenizer_file.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

constexpr std::size_t max_depth = 64;
/// Values outside the vocabulary and the merges; a file with 30 000 added tokens has 250 000.
constexpr std::size_t max_values = 400'000;
/// So that looking for repeated keys one by one stays cheap.
constexpr std::size_t max_members = 1024;
constexpr std::size_t max_merges = 1 << 20;

/// nlohmann's SAX events: vocabulary and merges go to their tables, everything else into a document.
class Reader {
 public:
  Reader(std::string_view source, TokenizerFile& file) : source_(source), file_(file) {}

  bool null() { return scalar(nullptr); }
  bool boolean(bool value) { return scalar(value); }
  bool number_integer(std::int64_t value) {
    if (part_ == Part::vocab_map) token_id(value);
    if (part_ == Part::vocab_list) return score(static_cast<double>(value));
    return scalar(value);
  }
  bool number_unsigned(std::uint64_t value) {
    if (part_ == Part::vocab_map)
      return token_id(static_cast<std::int64_t>(
          std::min<std::uint64_t>(value, static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))));
    if (part_ == Part::vocab_list) return score(static_cast<double>(value));
    return scalar(value);
  }
  bool number_float(double value, const std::string&) {
    if (part_ == Part::vocab_list) return score(value);
    return scalar(value);
  }
  bool binary(std::vector<std::uint8_t>&) { return false; }

  bool string(std::string& value) {
    if (part_ == Part::merges) return merge(value);
    if (part_ == Part::vocab_list) return token(value);
    return scalar(std::move(value));
  }

  bool key(std::string& name) {
    if (part_ == Part::none) {
      const Json& object = *open_.back();
      require(object.size() < max_members, "{}: an object has more than {} members", source_, max_members);
      if (object.contains(name)) fail("{}: duplicate key '{}'", source_, printable(name));
    }
    key_.swap(name);
    return true;
  }

  bool start_object(std::size_t) {
    if (part_ != Part::none) bad_entry("an object");
    if (at_model_member("vocab")) return enter(Part::vocab_map);
    return open(Json::object());
  }
  bool start_array(std::size_t) {
    if (part_ == Part::none && at_model_member("vocab")) return enter(Part::vocab_list);
    if (part_ == Part::none && at_model_member("merges")) return enter(Part::merges);
    if (part_ == Part::none) return open(Json::array());
    if (part_ == Part::vocab_map || in_pair_) bad_entry("a list");
    in_pair_ = true;
    in_pair_count_ = 0;
    return true;
  }
  bool end_object() { return close(); }
  bool end_array() {
    if (!in_pair_) return close();
    if (in_pair_count_ != 2) bad_entry("a list of another length than 2");
    in_pair_ = false;
    return true;
  }

  bool parse_error(std::size_t offset, const std::string&, const nlohmann::detail::exception& e) {
    std::string_view what = e.what();
    if (const auto colon = what.find("syntax error"); colon != std::string_view::npos) what.remove_prefix(colon);
    fail("{}: at byte {}: {}", source_, offset, printable(what));
  }

 private:
  enum class Part { none, vocab_map, vocab_list, merges };

  bool at_model_member(std::string_view name) const {
    return open_.size() == 2 && in_model_ && open_.back()->is_object() && key_ == name;
  }

  /// The table takes the member's place; the document keeps a mark that it was there.
  bool enter(Part part) {
    place(true);
    part_ = part;
    return true;
  }

  [[noreturn]] void bad_entry(std::string_view what) const {
    const std::string_view expected = part_ == Part::vocab_map    ? "token: id"
                                      : part_ == Part::vocab_list ? "[token, score]"
                                                                  : "\"left right\" or [left, right]";
    const std::size_t entry = part_ == Part::merges ? file_.merges.size() / 2 : file_.tokens.size();
    fail("{}: model.{}: entry {} is {}, expected {}", source_, part_ == Part::merges ? "merges" : "vocab", entry, what,
         expected);
  }

  template <class Value>
  bool scalar(Value&& value) {
    if (part_ != Part::none) bad_entry("of another kind");
    place(Json(std::forward<Value>(value)));
    return true;
  }

  bool token_id(std::int64_t id) {
    require(id >= 0 && id < max_vocabulary, "{}: model.vocab: token '{}' has id {}, expected 0 to {}", source_,
            printable(key_), id, max_vocabulary - 1);
    return add_token(key_, static_cast<std::int32_t>(id));
  }

  bool add_token(std::string_view text, std::int32_t id) {
    switch (file_.tokens.add(text, id)) {
      case TokenTable::Added::yes: return true;
      case TokenTable::Added::text_known: fail("{}: model.vocab: token '{}' is there twice", source_, printable(text));
      case TokenTable::Added::id_taken:
        fail("{}: model.vocab: id {} is that of '{}' and of '{}'", source_, id,
             printable(file_.tokens.text(id).value_or("")), printable(text));
    }
    return true;
  }

  bool token(std::string_view text) {
    if (!in_pair_ || in_pair_count_++ != 0) bad_entry("a string out of place");
    require(file_.tokens.size() < static_cast<std::size_t>(max_vocabulary), "{}: model.vocab has more than {} tokens",
            source_, max_vocabulary);
    return add_token(text, static_cast<std::int32_t>(file_.tokens.size()));
  }

  bool score(double value) {
    if (!in_pair_ || in_pair_count_++ != 1) bad_entry("a number out of place");
    file_.scores.push_back(value);
    return true;
  }

  bool merge(std::string_view text) {
    require(file_.merges.size() < 2 * max_merges, "{}: model.merges has more than {} entries", source_, max_merges);
    if (in_pair_) {
      if (++in_pair_count_ > 2) bad_entry("a list of another length than 2");
      file_.merges.add(text);
      return true;
    }
    if (text.starts_with("#version")) return true;
    const std::size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos)
      bad_entry(fmt::format("'{}'", printable(text, 80)));
    file_.merges.add(text.substr(0, space));
    file_.merges.add(text.substr(space + 1));
    return true;
  }

  bool open(Json container) {
    require(open_.size() < max_depth, "{}: JSON is nested deeper than {} levels", source_, max_depth);
    if (open_.size() == 1) in_model_ = key_ == "model";
    open_.push_back(place(std::move(container)));
    return true;
  }

  bool close() {
    if (part_ != Part::none)
      part_ = Part::none;
    else
      open_.pop_back();
    return true;
  }

  Json* place(Json value) {
    require(++values_ <= max_values, "{}: has more than {} values outside model.vocab and model.merges", source_,
            max_values);
    if (open_.empty()) {
      file_.root = std::move(value);
      return &file_.root;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    auto& members = parent.get_ref<Json::object_t&>();
    members.Container::emplace_back(key_, std::move(value));
    return &members.back().second;
  }

  std::string_view source_;
  TokenizerFile& file_;
  std::vector<Json*> open_;
  std::string key_;
  Part part_ = Part::none;
  bool in_model_ = false;
  bool in_pair_ = false;
  int in_pair_count_ = 0;
  std::size_t values_ = 0;
};

}  // namespace

bool looks_like_tokenizer_json(std::string_view bytes) {
  if (bytes.starts_with("\xEF\xBB\xBF")) bytes.remove_prefix(3);
  const std::size_t first = bytes.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || bytes[first] != '{') return false;
  const std::size_t second = bytes.find_first_not_of(" \t\r\n", first + 1);
  return second == std::string_view::npos || bytes[second] == '"' || bytes[second] == '}';
}

TokenizerFile parse_tokenizer_file(std::string_view text, std::string_view source) {
  require(text.size() <= max_tokenizer_bytes, "{}: is {} bytes, expected at most {}", source, text.size(),
          max_tokenizer_bytes);
  TokenizerFile file;
  Reader reader(source, file);
  Json::sax_parse(text, &reader);
  require(file.root.is_object(), "{}: is no JSON object", source);
  return file;
}

}  // namespace mamba2
