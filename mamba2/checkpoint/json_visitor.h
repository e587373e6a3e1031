#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mamba2 {

/// Takes a JSON text's parts as they come, so that a header of any size is read without a tree in memory.  Each
/// member's default fails with "{source}: {expected()}, found KIND".
class JsonVisitor {
 public:
  explicit JsonVisitor(std::string_view source) : source_(source) {}
  virtual ~JsonVisitor() = default;
  JsonVisitor(const JsonVisitor&) = delete;
  JsonVisitor& operator=(const JsonVisitor&) = delete;

  virtual void null() { unexpected("null"); }
  virtual void boolean() { unexpected("a boolean"); }
  virtual void unsigned_integer(std::uint64_t) { unexpected("a number"); }
  virtual void negative_integer() { unexpected("a negative number"); }
  virtual void real() { unexpected("a number that is no integer below 2^64"); }
  virtual void string(std::string_view) { unexpected("a string"); }
  virtual void start_object() { unexpected("an object"); }
  virtual void key(std::string_view) = 0;
  virtual void end_object() = 0;
  virtual void start_array() { unexpected("an array"); }
  virtual void end_array() = 0;

  const std::string& source() const { return source_; }

 protected:
  /// Where the visitor is and what it waits for: "tensor 'x': field 'shape': expected an array of integers".
  virtual std::string expected() const = 0;
  [[noreturn]] void unexpected(std::string_view what) const;

 private:
  std::string source_;
};

/// Walks through a JSON text.  Memory stays within some tens of MiB whatever the text holds.  Throws Error that starts
/// with the visitor's source for malformed text, and for strings and for stretches without
/// strings of more than 4 MiB.
void visit_json(std::string_view text, JsonVisitor& visitor);

}  // namespace mamba2
