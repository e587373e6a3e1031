#include "mamba2/checkpoint/pickle.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

using Kind = PickleValue::Kind;

/// Python's pickler puts at most 1000 items on the stack before it moves them into their container.
constexpr std::size_t max_stack = 1U << 16;
/// Of containers and memo; a state dict takes about 1.5 KB a tensor.
constexpr std::size_t max_spent_bytes = 24U << 20;
constexpr std::uint32_t absent = 0xFFFFFFFF;

enum Opcode : std::uint8_t {
  mark = '(',
  stop = '.',
  pop_value = '0',
  pop_to_mark = '1',
  duplicate = '2',
  binfloat = 'G',
  binint = 'J',
  binint1 = 'K',
  binint2 = 'M',
  none = 'N',
  binpersid = 'Q',
  reduce = 'R',
  binunicode = 'X',
  append = 'a',
  build = 'b',
  global = 'c',
  appends = 'e',
  binget = 'h',
  long_binget = 'j',
  binput = 'q',
  long_binput = 'r',
  setitem = 's',
  tuple = 't',
  setitems = 'u',
  binbytes = 'B',
  short_binbytes = 'C',
  empty_list = ']',
  empty_tuple = ')',
  empty_dict = '}',
  protocol = 0x80,
  tuple1 = 0x85,
  tuple2 = 0x86,
  tuple3 = 0x87,
  newtrue = 0x88,
  newfalse = 0x89,
  long1 = 0x8a,
  short_binunicode = 0x8c,
  binunicode8 = 0x8d,
  binbytes8 = 0x8e,
  stack_global = 0x93,
  memoize_top = 0x94,
  frame = 0x95,
};

/// Opcodes of whole programs rather than of state dicts, for the error message.
constexpr std::array<std::pair<std::uint8_t, std::string_view>, 22> refused{{{'F', "FLOAT"},
                                                                             {'I', "INT"},
                                                                             {'L', "LONG"},
                                                                             {'P', "PERSID"},
                                                                             {'S', "STRING"},
                                                                             {'T', "BINSTRING"},
                                                                             {'U', "SHORT_BINSTRING"},
                                                                             {'V', "UNICODE"},
                                                                             {'d', "DICT"},
                                                                             {'g', "GET"},
                                                                             {'i', "INST"},
                                                                             {'l', "LIST"},
                                                                             {'o', "OBJ"},
                                                                             {'p', "PUT"},
                                                                             {0x81, "NEWOBJ"},
                                                                             {0x82, "EXT1"},
                                                                             {0x83, "EXT2"},
                                                                             {0x84, "EXT4"},
                                                                             {0x8f, "EMPTY_SET"},
                                                                             {0x90, "ADDITEMS"},
                                                                             {0x91, "FROZENSET"},
                                                                             {0x92, "NEWOBJ_EX"}}};

std::string_view opcode_name(std::uint8_t opcode) {
  for (const auto& [code, name] : refused)
    if (code == opcode) return name;
  return "unknown";
}

PickleValue integer_value(std::int64_t value) {
  return {.kind = Kind::integer, .integer = value};
}

}  // namespace

std::string describe(const PickleValue& value) {
  switch (value.kind) {
    case Kind::none: return "None";
    case Kind::boolean: return value.integer != 0 ? "True" : "False";
    case Kind::integer: return fmt::format("the number {}", value.integer);
    case Kind::real: return "a float";
    case Kind::text: return fmt::format("the string '{}'", printable(value.text));
    case Kind::bytes: return "bytes";
    case Kind::tuple: return "a tuple";
    case Kind::list: return "a list";
    case Kind::dict: return "a dict";
    case Kind::global: return "a class or function";
    case Kind::object: break;
  }
  return "an object";
}

Pickle::Pickle(std::span<const std::byte> bytes, std::string_view source, PickleHost& host)
    : bytes_(reinterpret_cast<const char*>(bytes.data()), bytes.size()), host_(host) {
  try {
    run();
  } catch (const Error& e) {
    fail("{}: pickle, byte {}: {}", source, at_, e.what());
  }
}

void Pickle::run() {
  require(take<std::uint8_t>() == protocol, "does not start with a protocol, expected 2 to 5");
  const auto version = take<std::uint8_t>();
  require(version >= 2 && version <= 5, "protocol is {}, expected 2 to 5", version);
  for (auto opcode = take<std::uint8_t>(); opcode != stop; opcode = take<std::uint8_t>()) step(opcode);
  root_ = pop();
  require(stack_.empty(), "{} values are left over at the end", stack_.size());
}

void Pickle::step(std::uint8_t opcode) {
  if (push_literal(opcode) || push_text(opcode) || build_container(opcode) || use_memo(opcode) || use_host(opcode))
    return;
  switch (opcode) {
    case mark:
      require(marks_.size() < max_stack, "more than {} marks", max_stack);
      marks_.push_back(stack_.size());
      return;
    case pop_value: pop(); return;
    case pop_to_mark: stack_.resize(pop_mark()); return;
    case duplicate: push(PickleValue(top())); return;
    case frame: require(take<std::uint64_t>() <= bytes_.size() - at_, "a frame is longer than the pickle"); return;
    default:
      fail("opcode {:#04x} ({}) is not allowed: only tensors, numbers, text and their containers are read", opcode,
           opcode_name(opcode));
  }
}

bool Pickle::push_literal(std::uint8_t opcode) {
  switch (opcode) {
    case none: push({}); return true;
    case newtrue: push({.kind = Kind::boolean, .integer = 1}); return true;
    case newfalse: push({.kind = Kind::boolean}); return true;
    case binint: push(integer_value(std::bit_cast<std::int32_t>(take<std::uint32_t>()))); return true;
    case binint1: push(integer_value(take<std::uint8_t>())); return true;
    case binint2: push(integer_value(take<std::uint16_t>())); return true;
    case long1: push(integer_value(take_long())); return true;
    case binfloat:
      take<std::uint64_t>();
      push({.kind = Kind::real});
      return true;
    default: return false;
  }
}

bool Pickle::push_text(std::uint8_t opcode) {
  switch (opcode) {
    case short_binunicode: push_bytes(Kind::text, take<std::uint8_t>()); return true;
    case binunicode: push_bytes(Kind::text, take<std::uint32_t>()); return true;
    case binunicode8: push_bytes(Kind::text, take<std::uint64_t>()); return true;
    case short_binbytes: push_bytes(Kind::bytes, take<std::uint8_t>()); return true;
    case binbytes: push_bytes(Kind::bytes, take<std::uint32_t>()); return true;
    case binbytes8: push_bytes(Kind::bytes, take<std::uint64_t>()); return true;
    default: return false;
  }
}

bool Pickle::build_container(std::uint8_t opcode) {
  switch (opcode) {
    case empty_tuple: make_tuple(0); return true;
    case tuple1: make_tuple(1); return true;
    case tuple2: make_tuple(2); return true;
    case tuple3: make_tuple(3); return true;
    case tuple: {
      const std::size_t start = pop_mark();
      make_tuple(stack_.size() - start);
      return true;
    }
    case empty_list: push(new_container(Kind::list, {})); return true;
    case empty_dict: push(new_dict()); return true;
    case append: extend_container(Kind::list, stack_.size() - std::min<std::size_t>(stack_.size(), 1)); return true;
    case appends: extend_container(Kind::list, pop_mark()); return true;
    case setitem: extend_container(Kind::dict, stack_.size() - std::min<std::size_t>(stack_.size(), 2)); return true;
    case setitems: extend_container(Kind::dict, pop_mark()); return true;
    default: return false;
  }
}

bool Pickle::use_memo(std::uint8_t opcode) {
  const auto get = [this](std::uint64_t index) {
    require(index < memo_.size() && memo_[index].id != absent, "nothing was memoized as {}", index);
    push(PickleValue(memo_[index]));
  };
  switch (opcode) {
    case binput: memoize(take<std::uint8_t>()); return true;
    case long_binput: memoize(take<std::uint32_t>()); return true;
    case memoize_top: memoize(memo_.size()); return true;
    case binget: get(take<std::uint8_t>()); return true;
    case long_binget: get(take<std::uint32_t>()); return true;
    default: return false;
  }
}

bool Pickle::use_host(std::uint8_t opcode) {
  switch (opcode) {
    case global: {
      const std::string_view module = take_line(), name = take_line();
      push({.kind = Kind::global, .id = host_.global(module, name)});
      return true;
    }
    case stack_global: {
      const PickleValue name = pop(), module = pop();
      require(name.kind == Kind::text && module.kind == Kind::text, "a global's name is no string");
      push({.kind = Kind::global, .id = host_.global(module.text, name.text)});
      return true;
    }
    case reduce: {
      const PickleValue arguments = pop(), callable = pop();
      require(callable.kind == Kind::global && arguments.kind == Kind::tuple, "a call of {} with {}",
              describe(callable), describe(arguments));
      push(host_.call(*this, callable.id, items(arguments)));
      return true;
    }
    case build: {  // an OrderedDict's attributes, such as state_dict()'s _metadata
      const PickleValue state = pop();
      require(top().kind == Kind::dict && state.kind == Kind::dict, "attributes are set on {}", describe(top()));
      return true;
    }
    case binpersid: push(host_.persistent(*this, pop())); return true;
    default: return false;
  }
}

template <class Unsigned>
Unsigned Pickle::take() {
  require(bytes_.size() - at_ >= sizeof(Unsigned), "ends too early");
  Unsigned value;
  std::memcpy(&value, bytes_.data() + at_, sizeof value);
  at_ += sizeof value;
  return value;
}

std::string_view Pickle::take_text(std::uint64_t length) {
  require(length <= bytes_.size() - at_, "a string of {} bytes is longer than the pickle", length);
  const std::string_view text = bytes_.substr(at_, static_cast<std::size_t>(length));
  at_ += text.size();
  return text;
}

std::string_view Pickle::take_line() {
  const std::size_t end = bytes_.find('\n', at_);
  require(end != std::string_view::npos, "ends too early");
  const std::string_view line = bytes_.substr(at_, end - at_);
  at_ = end + 1;
  return line;
}

/// A length and that many bytes of a two's complement number, lowest first.
std::int64_t Pickle::take_long() {
  const auto length = take<std::uint8_t>();
  require(length <= 8, "an integer has {} bytes, expected at most 8", length);
  const std::string_view digits = take_text(length);
  std::uint64_t value = !digits.empty() && (digits.back() & 0x80) != 0 ? ~std::uint64_t{0} : 0;
  for (std::size_t i = digits.size(); i-- > 0;) value = value << 8 | static_cast<std::uint8_t>(digits[i]);
  return std::bit_cast<std::int64_t>(value);
}

void Pickle::push(const PickleValue& value) {
  require(stack_.size() < max_stack, "the stack holds more than {} values", max_stack);
  stack_.push_back(value);
}

void Pickle::push_bytes(Kind kind, std::uint64_t length) {
  push({.kind = kind, .text = take_text(length)});
}

/// Values below the last mark belong to whoever set it.
const PickleValue& Pickle::top() const {
  require(stack_.size() > (marks_.empty() ? 0 : marks_.back()), "the stack is empty");
  return stack_.back();
}

PickleValue Pickle::pop() {
  const PickleValue value = top();
  stack_.pop_back();
  return value;
}

std::size_t Pickle::pop_mark() {
  require(!marks_.empty(), "there is no mark");
  const std::size_t height = marks_.back();
  marks_.pop_back();
  return height;
}

void Pickle::make_tuple(std::size_t length) {
  require(stack_.size() - (marks_.empty() ? 0 : marks_.back()) >= length, "the stack is empty");
  const auto items = std::span(stack_).last(length);
  const PickleValue tuple_value = new_container(Kind::tuple, items);
  stack_.resize(stack_.size() - length);
  push(tuple_value);
}

void Pickle::extend_container(Kind kind, std::size_t start) {
  require(start > (marks_.empty() ? 0 : marks_.back()) && stack_[start - 1].kind == kind, "there is no {} to add to",
          kind == Kind::list ? "list" : "dict");
  const auto added = std::span(stack_).subspan(start);
  require(kind == Kind::list || added.size() % 2 == 0, "a dict's key has no value");
  spend(added.size() * 2 * sizeof(PickleValue));  // 2: a growing vector holds that much unused
  auto& items = containers_[stack_[start - 1].id];
  items.insert(items.end(), added.begin(), added.end());
  stack_.resize(start);
}

void Pickle::memoize(std::uint64_t index) {
  const PickleValue value = top();
  if (index >= memo_.size()) {
    require(index < bytes_.size(), "memo index {} is more than the pickle's {} bytes", index, bytes_.size());
    const std::size_t added = static_cast<std::size_t>(index) + 1 - memo_.size();
    spend(added * 2 * sizeof(PickleValue));
    memo_.resize(memo_.size() + added, PickleValue{.id = absent});
  }
  memo_[static_cast<std::size_t>(index)] = value;
}

PickleValue Pickle::new_container(Kind kind, std::span<const PickleValue> items) {
  // 32: the allocator's own share of a vector and its memory
  spend(sizeof(std::vector<PickleValue>) + 32 + items.size() * sizeof(PickleValue));
  containers_.emplace_back(items.begin(), items.end());
  return {.kind = kind, .id = static_cast<std::uint32_t>(containers_.size() - 1)};
}

void Pickle::spend(std::size_t bytes) {
  spent_ += bytes;
  require(spent_ <= max_spent_bytes, "holds more objects than fit into {} bytes", max_spent_bytes);
}

}  // namespace mamba2
