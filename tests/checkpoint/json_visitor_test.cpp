#include "mamba2/checkpoint/json_visitor.h"

#include "test_files.h"

namespace mamba2 {
namespace {

using ::testing::HasSubstr;

/// Takes anything and counts it.
class Counter : public JsonVisitor {
 public:
  Counter() : JsonVisitor("x.json") {}
  void null() override { ++values; }
  void boolean() override { ++values; }
  void unsigned_integer(std::uint64_t) override { ++values; }
  void negative_integer() override { ++values; }
  void real() override { ++values; }
  void string(std::string_view) override { ++values; }
  void start_object() override { ++values; }
  void key(std::string_view) override {}
  void end_object() override {}
  void start_array() override { ++values; }
  void end_array() override {}
  std::string expected() const override { return "expected nothing"; }
  int values = 0;
};

int count(std::string_view text) {
  Counter counter;
  visit_json(text, counter);
  return counter.values;
}

TEST(JsonVisitor, SeesEveryValue) {
  EXPECT_EQ(count(R"({"a": [1, -2, 1.5, "x,]}\"{", null], "b": {"c": true}}   )"), 9);
}

TEST(JsonVisitor, RefusesMalformedTextWithTheByte) {
  EXPECT_THAT(test::error_of([] { count(R"({"a": nil})"); }), HasSubstr("x.json: malformed JSON at byte"));
  for (const char* text :
       {"", "{", "[1,]", "{\"a\"}", "{} {}", "\"\xff\"", "\"\x01\"", "01", "{\"a\":1,}", "nul", "\"\\u12\""})
    EXPECT_THROW(count(text), Error) << text;
}

TEST(JsonVisitor, TakesAnyDepthWithoutRecursion) {
  const std::size_t depth = 1'000'000;
  EXPECT_EQ(count(std::string(depth, '[') + std::string(depth, ']')), 1'000'000);
  EXPECT_THROW(count(std::string(depth, '[')), Error);
}

TEST(JsonVisitor, RefusesStringsAndStretchesWithoutThemOfMoreThanFourMebibytes) {
  const std::string most((4U << 20) - 16, 'x');
  EXPECT_EQ(count("\"" + most + "\""), 1);
  EXPECT_THAT(test::error_of([&] { count("[\"" + most + std::string(32, 'x') + "\"]"); }),
              HasSubstr("more than 4194304"));
  EXPECT_THROW(count("[" + std::string(5U << 20, '1') + "]"), Error);
  EXPECT_THROW(count("[" + std::string(5U << 20, ' ') + "]"), Error);
  EXPECT_THROW(count(std::string(5U << 20, '[')), Error);
  EXPECT_EQ(count("[]" + std::string(5U << 20, ' ')), 1);
}

}  // namespace
}  // namespace mamba2
