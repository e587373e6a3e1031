#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mamba2 {

/// A value of a pickle.  Containers and objects are numbers that the Pickle and its PickleHost know.
struct PickleValue {
  enum class Kind : std::uint8_t { none, boolean, integer, real, text, bytes, tuple, list, dict, global, object };
  Kind kind = Kind::none;
  std::uint32_t id = 0;        ///< tuple, list, dict: of the container; global, object: the host's
  std::int64_t integer = 0;    ///< also of a boolean; a real's value is not kept
  std::string_view text = {};  ///< a view of the pickle
};

/// "a tuple", "the number 3", "the string 'cpu'"
std::string describe(const PickleValue& value);

class Pickle;

/// What gives a pickle's globals, calls and persistent ids a meaning.  Nothing is executed but what the host does.
/// Each member throws Error, without naming the file, for what it does not know.
class PickleHost {
 public:
  virtual ~PickleHost() = default;
  /// A number of the host's own for a global such as ("torch", "FloatStorage").
  virtual std::uint32_t global(std::string_view module, std::string_view name) = 0;
  virtual PickleValue call(Pickle& pickle, std::uint32_t global, std::span<const PickleValue> arguments) = 0;
  virtual PickleValue persistent(const Pickle& pickle, const PickleValue& id) = 0;
};

/// Reads a pickle of protocol 2 to 5 as data (Python's Lib/pickletools.py describes the opcodes): numbers, text,
/// tuples, lists, dicts, and what the host makes of the rest.  Without recursion, and within 40 MiB whatever the pickle
/// holds. Throws Error that starts with source and names the byte for malformed pickles and for opcodes that state
/// dicts don't need.
class Pickle {
 public:
  /// `bytes` must outlive the Pickle.
  Pickle(std::span<const std::byte> bytes, std::string_view source, PickleHost& host);

  const PickleValue& root() const { return root_; }
  /// A tuple's or list's items; a dict's keys and values in turn, in the order they were set.
  std::span<const PickleValue> items(const PickleValue& container) const { return containers_[container.id]; }
  PickleValue new_dict() { return new_container(PickleValue::Kind::dict, {}); }

 private:
  void run();
  void step(std::uint8_t opcode);
  bool push_literal(std::uint8_t opcode);
  bool push_text(std::uint8_t opcode);
  bool build_container(std::uint8_t opcode);
  bool use_memo(std::uint8_t opcode);
  bool use_host(std::uint8_t opcode);

  template <class Unsigned>
  Unsigned take();
  std::string_view take_text(std::uint64_t length);
  std::string_view take_line();
  std::int64_t take_long();

  void push(const PickleValue& value);
  void push_bytes(PickleValue::Kind kind, std::uint64_t length);
  PickleValue pop();
  const PickleValue& top() const;
  std::size_t pop_mark();
  void make_tuple(std::size_t length);
  /// Moves what lies above `start` on the stack into the container below it.
  void extend_container(PickleValue::Kind kind, std::size_t start);
  void memoize(std::uint64_t index);
  PickleValue new_container(PickleValue::Kind kind, std::span<const PickleValue> items);
  void spend(std::size_t bytes);

  std::string_view bytes_;
  std::size_t at_ = 0;
  PickleHost& host_;
  std::vector<PickleValue> stack_;
  std::vector<std::size_t> marks_;  // heights of the stack
  std::vector<PickleValue> memo_;
  std::deque<std::vector<PickleValue>> containers_;
  std::size_t spent_ = 0;  // bytes of containers and memo
  PickleValue root_;
};

}  // namespace mamba2
