#include "mamba2/hub/listing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

using ::testing::HasSubstr;

const HubName name{.model = "org/name"};
const std::string sha256(64, 'a');

std::string listing_with(const std::string& siblings) {
  return R"({"sha": ")" + std::string(40, 'c') + R"(", "siblings": )" + siblings + "}";
}

std::string failure(const std::string& json) {
  try {
    parse_listing(json, name);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(ListingTest, ALargeFileIsDescribedByItsLfsEntry) {
  const Listing listing = parse_listing(
      listing_with(R"([{"rfilename": "w", "size": 130, "blobId": "0123456789012345678901234567890123456789",
                        "lfs": {"sha256": ")" +
                   sha256 + R"(", "size": 5000000000, "pointerSize": 130}}])"),
      name);
  ASSERT_NE(listing.find("w"), nullptr);
  EXPECT_EQ(listing.find("w")->size, 5'000'000'000U);
  EXPECT_EQ(listing.find("w")->hash, sha256);
  EXPECT_EQ(listing.commit, std::string(40, 'c'));
}

TEST(ListingTest, AFileWithoutAHashIsKeptWithoutOne) {
  const Listing listing = parse_listing(listing_with(R"([{"rfilename": "w"}, {"rfilename": "v", "size": 1,
                                                         "blobId": "../../../x"}])"),
                                        name);
  EXPECT_EQ(listing.find("w")->hash, "");
  EXPECT_EQ(listing.find("v")->hash, "");
  EXPECT_EQ(listing.find("u"), nullptr);
}

TEST(ListingTest, SizesThatCannotBeAreRefused) {
  for (const char* size : {"-1", "1.5", "\"9\"", "18446744073709551615", "null"}) {
    const std::string entry = R"([{"rfilename": "w", "lfs": {"sha256": ")" + sha256 + R"(", "size": )" + size + "}}]";
    EXPECT_THAT(failure(listing_with(entry)), HasSubstr("org/name: the server gives")) << size;
  }
}

TEST(ListingTest, AnswersOfAnotherShapeAreRefused) {
  EXPECT_THAT(failure("[]"), HasSubstr("no field 'sha'"));
  EXPECT_THAT(failure(R"({"sha": "../../x", "siblings": []})"), HasSubstr("no field 'sha'"));
  EXPECT_THAT(failure(R"({"sha": ")" + std::string(40, 'c') + "\"}"), HasSubstr("no list 'siblings'"));
  EXPECT_THAT(failure(listing_with("{}")), HasSubstr("no list 'siblings'"));
  EXPECT_THAT(failure(listing_with("[3]")), HasSubstr("an entry without 'rfilename'"));
  EXPECT_THAT(failure(listing_with(R"([{"rfilename": 3}])")), HasSubstr("an entry without 'rfilename'"));
}

}  // namespace
}  // namespace mamba2
