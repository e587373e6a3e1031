#include "mamba2/base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string error_of(std::string_view text) {
  try {
    parse_json(text, "config.json");
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(Json, ReadsInfinityAndNanAsPythonWritesThem) {
  const Json json = parse_json(R"({"a": [0.0, Infinity, -Infinity], "b": NaN, "c": "Infinity, \" NaN"})", "x");
  EXPECT_EQ(json["a"][1].get<double>(), INFINITY);
  EXPECT_EQ(json["a"][2].get<double>(), -INFINITY);
  EXPECT_TRUE(std::isnan(json["b"].get<double>()));
  EXPECT_EQ(json["c"].get<std::string>(), "Infinity, \" NaN");
}

TEST(Json, ReadsTheObjectThatTransformersWritesForInfinity) {
  const Json json = parse_json(R"({"time_step_limit": [0.0, {"__float__": "Infinity"}]})", "x");
  EXPECT_EQ(json["time_step_limit"][1].get<double>(), INFINITY);
}

TEST(Json, KeepsTheOrderOfTheFile) {
  EXPECT_EQ(parse_json(R"({"z": 1, "a": [1, {"k": null}], "m": true})", "x").dump(),
            R"({"z":1,"a":[1,{"k":null}],"m":true})");
}

TEST(Json, NamesFileLineAndColumnOfMalformedText) {
  EXPECT_THAT(error_of("{\"a\": 1,\n \"b\": }"), StartsWith("config.json: line 2, column 7"));
  EXPECT_THAT(error_of(""), StartsWith("config.json: line 1"));
  EXPECT_THAT(error_of("{} {}"), StartsWith("config.json: line 1"));
  EXPECT_THAT(error_of("InfinityX"), StartsWith("config.json: line 1"));
}

TEST(Json, RefusesDuplicateKeys) {
  EXPECT_THAT(error_of(R"({"a": {"vocab_size": 1, "vocab_size": 2}})"), HasSubstr("duplicate key 'vocab_size'"));
}

TEST(Json, RefusesDeepNestingWithoutDeepRecursion) {
  EXPECT_THAT(error_of(std::string(100'000, '[')), HasSubstr("nested deeper than 64"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_THAT(error_of(objects), HasSubstr("nested deeper than 64"));
}

TEST(Json, RefusesInvalidUtf8) {
  EXPECT_THAT(error_of("{\"a\": \"\xFF\"}"), StartsWith("config.json: line 1"));
}

}  // namespace
}  // namespace mamba2
