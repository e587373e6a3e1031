#include "mamba2/checkpoint/pickle.h"

#include "test_files.h"

namespace mamba2 {
namespace {

using test::bytes_of;
using test::le;
using ::testing::HasSubstr;
using Kind = PickleValue::Kind;
namespace op = test::op;

/// Knows one function, which gives back its argument, and every persistent id.
class Host : public PickleHost {
 public:
  std::uint32_t global(std::string_view module, std::string_view name) override {
    require(module == "m" && name == "f", "refers to {}.{}", printable(module), printable(name));
    return 7;
  }
  PickleValue call(Pickle&, std::uint32_t, std::span<const PickleValue> arguments) override { return arguments[0]; }
  PickleValue persistent(const Pickle&, const PickleValue& id) override { return id; }
};

/// Reads `body` between protocol and stop and passes the Pickle on.
template <class Look>
void read(const std::string& body, Look&& look) {
  Host host;
  const std::string bytes = op::proto + body + op::stop;
  look(Pickle(bytes_of(bytes), "x", host));
}

std::string error_of(const std::string& bytes) {
  Host host;
  return test::error_of([&] { Pickle(bytes_of(bytes), "x", host); });
}

std::string body_error(const std::string& body) {
  return error_of(op::proto + body + op::stop);
}

TEST(Pickle, ReadsNumbersOfEveryWidth) {
  const std::vector<std::pair<std::string, std::int64_t>> cases{
      {"K\xff", 255},
      {"M\xff\xff", 65535},
      {"J" + le<std::int32_t>(-5), -5},
      {std::string("\x8a\x00", 2), 0},
      {"\x8a\x01\x80", -128},
      {"\x8a\x03" + std::string("\x00\x00\x01", 3), 65536},
      {op::number(std::int64_t{1} << 62), std::int64_t{1} << 62},
      {op::number(-1), -1}};
  for (const auto& [bytes, value] : cases) {
    read(bytes, [expected = value](const Pickle& pickle) {
      EXPECT_EQ(pickle.root().kind, Kind::integer);
      EXPECT_EQ(pickle.root().integer, expected);
    });
  }
}

TEST(Pickle, ReadsNestedContainersInOrder) {
  read("}(" + op::text("a") + "](K\x01K\x02" + "eX" + le<std::uint32_t>(1) + "b" + "N\x88\x86u",
       [](const Pickle& pickle) {
         const auto items = pickle.items(pickle.root());
         ASSERT_EQ(items.size(), 4U);
         EXPECT_EQ(items[0].text, "a");
         EXPECT_EQ(pickle.items(items[1]).size(), 2U);
         EXPECT_EQ(items[3].kind, Kind::tuple);
         EXPECT_EQ(pickle.items(items[3])[1].integer, 1);
       });
}

TEST(Pickle, ReadsProtocolFourWithFramesMemoAndStackGlobals) {
  const std::string body =
      "\x8c\x01m\x94\x8c\x01"
      "f\x94\x93\x94K\x05\x85\x94R\x94h\x01\x86";
  Host host;
  const std::string bytes = "\x80\x04\x95" + le<std::uint64_t>(body.size() + 1) + body + ".";
  const Pickle pickle(bytes_of(bytes), "x", host);
  EXPECT_EQ(pickle.items(pickle.root())[0].integer, 5);
  EXPECT_EQ(pickle.items(pickle.root())[1].text, "f");
}

TEST(Pickle, GivesBackWhatWasMemoized) {
  read(
      "]q\x05h\x05K\x01"
      "a\x86",
      [](const Pickle& pickle) {
        const auto items = pickle.items(pickle.root());
        EXPECT_EQ(items[0].id, items[1].id);
        EXPECT_EQ(pickle.items(items[0]).size(), 1U);
      });
  EXPECT_THAT(body_error("Nq\x05h\x04"), HasSubstr("nothing was memoized as 4"));
  EXPECT_THAT(body_error("Nj" + le<std::uint32_t>(0xFFFFFFFF)), HasSubstr("nothing was memoized"));
  EXPECT_THAT(body_error("Nr" + le<std::uint32_t>(0xFFFFFFFE)), HasSubstr("memo index 4294967294"));
}

TEST(Pickle, ContainersThatHoldThemselvesDoNoHarm) {
  read(
      "]q\x01h\x01h\x01"
      "aa",
      [](const Pickle& pickle) { EXPECT_EQ(pickle.items(pickle.root()).size(), 2U); });
}

TEST(Pickle, NamesTheGlobalAndTheOpcodeThatItRefuses) {
  EXPECT_EQ(body_error(op::global("os", "system") + op::text("true") + "\x85R"),
            "x: pickle, byte 13: refers to os.system");
  EXPECT_THAT(body_error("\x8c\x05"
                         "posix\x8c\x06"
                         "system\x93"),
              HasSubstr("refers to posix.system"));
  EXPECT_THAT(body_error("(S'true'\nios\nsystem\n"), HasSubstr("opcode 0x53 (STRING) is not allowed"));
  EXPECT_THAT(body_error("(ios\nsystem\n"), HasSubstr("opcode 0x69 (INST)"));
  EXPECT_THAT(body_error(")\x81"), HasSubstr("opcode 0x81 (NEWOBJ)"));
  EXPECT_THAT(body_error("\x82\x01"), HasSubstr("opcode 0x82 (EXT1)"));
  EXPECT_THAT(body_error("\xff"), HasSubstr("opcode 0xff (unknown)"));
}

TEST(Pickle, RefusesCallsAndAttributesOfOtherThings) {
  EXPECT_THAT(body_error("N)R"), HasSubstr("a call of None with a tuple"));
  EXPECT_THAT(body_error(op::global("m", "f") + "NR"), HasSubstr("a call of a class or function with None"));
  EXPECT_THAT(body_error("K\x01}b"), HasSubstr("attributes are set on the number 1"));
  EXPECT_THAT(body_error("}Nb"), HasSubstr("attributes are set on a dict"));
}

TEST(Pickle, RefusesAStackThatDoesNotFit) {
  for (const char* body :
       {"0", "1",  "2", "\x85", "N\x86", "t",  "e",   "u",     "a",      "Na",   "s",     "NNs", "}Ns", "}(Nu", "](N(t",
        "R", "NR", "b", "Q",    "q\x01", "(0", "N(0", "(\x85", "N(\x85", "](Na", "}(NNs", "](",  "NN",  "",     "\x93"})
    EXPECT_THAT(body_error(body), HasSubstr("x: pickle, byte")) << body;
}

TEST(Pickle, RefusesStringsLongerThanThePickle) {
  for (const std::string& body :
       {"X" + le<std::uint32_t>(0xFFFFFFFF), "\x8d" + le(~std::uint64_t{0}), "\x8e" + le(std::uint64_t{1} << 63),
        std::string("C\x05"
                    "abc")})
    EXPECT_THAT(body_error(body), HasSubstr("longer than the pickle")) << body;
  EXPECT_THAT(body_error("\x95" + le(~std::uint64_t{0})), HasSubstr("a frame is longer"));
  EXPECT_THAT(body_error("\x8a\x09" + std::string(9, '\0')), HasSubstr("an integer has 9 bytes"));
}

TEST(Pickle, RefusesOtherProtocols) {
  EXPECT_THAT(error_of("(dp0\n."), HasSubstr("does not start with a protocol"));
  EXPECT_THAT(error_of("\x80\x01N."), HasSubstr("protocol is 1"));
  EXPECT_THAT(error_of("\x80\x06N."), HasSubstr("protocol is 6"));
}

TEST(Pickle, EveryTruncationIsRefused) {
  const std::string bytes =
      op::proto + op::dict({{"a", op::numbers({1, 2})}, {"b", op::global("m", "f") + "N\x85R"}}) + ".";
  Host host;
  for (std::size_t length = 0; length < bytes.size(); ++length)
    EXPECT_THROW(Pickle(bytes_of(bytes).first(length), "x", host), Error) << length;
}

TEST(Pickle, RefusesHundredThousandMarksAndValuesWithoutRecursion) {
  EXPECT_THAT(body_error(std::string(100'000, '(')), HasSubstr("more than 65536 marks"));
  EXPECT_THAT(body_error(std::string(100'000, 'N')), HasSubstr("more than 65536 values"));
  EXPECT_THAT(body_error("N" + std::string(10'000'000, '\x85')), HasSubstr("more objects than fit"));
  read(std::string(60'000, ']') + std::string(59'999, 'a'),
       [](const Pickle& pickle) { EXPECT_EQ(pickle.items(pickle.root()).size(), 1U); });
}

}  // namespace
}  // namespace mamba2
