#include "mamba2/hub/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "mamba2/base/error.h"
#include "tests/temporary_folder.h"

namespace mamba2 {
namespace {

using ::testing::HasSubstr;

HubOptions options_with(std::map<std::string, std::string> variables) {
  variables.emplace("HOME", "/home/someone");
  return hub_options_from_environment([&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  });
}

std::string cache_with(const std::map<std::string, std::string>& variables) {
  return options_with(variables).cache_directory;
}

TEST(HubOptionsTest, WithoutVariablesTheCacheLiesInTheHomeDirectory) {
  const HubOptions options = options_with({});
  EXPECT_EQ(options.cache_directory, "/home/someone/.cache/huggingface/hub");
  EXPECT_EQ(options.endpoint, "https://huggingface.co");
  EXPECT_EQ(options.token, "");
  EXPECT_FALSE(options.offline);
  EXPECT_TRUE(options.progress_bars);
}

TEST(HubOptionsTest, TheNarrowerVariableSaysWhereTheCacheIs) {
  EXPECT_EQ(cache_with({{"XDG_CACHE_HOME", "/x"}}), "/x/huggingface/hub");
  EXPECT_EQ(cache_with({{"XDG_CACHE_HOME", "/x"}, {"HF_HOME", "/h"}}), "/h/hub");
  EXPECT_EQ(cache_with({{"HF_HOME", "/h"}, {"HUGGINGFACE_HUB_CACHE", "/old"}}), "/old");
  EXPECT_EQ(cache_with({{"HUGGINGFACE_HUB_CACHE", "/old"}, {"HF_HUB_CACHE", "/new"}}), "/new");
}

TEST(HubOptionsTest, AnEmptyVariableCountsAsNotSet) {
  EXPECT_EQ(cache_with({{"HF_HUB_CACHE", ""}, {"HF_HOME", ""}}), "/home/someone/.cache/huggingface/hub");
}

TEST(HubOptionsTest, TheHomeDirectoryAndVariablesAreExpanded) {
  EXPECT_EQ(cache_with({{"HF_HOME", "~/hf"}}), "/home/someone/hf/hub");
  EXPECT_EQ(cache_with({{"HF_HUB_CACHE", "$DISK/a${SUB}b"}, {"DISK", "/d"}, {"SUB", "_s_"}}), "/d/a_s_b");
  EXPECT_EQ(cache_with({{"HF_HUB_CACHE", "/d/$UNSET/${UNSET}/$"}}), "/d/$UNSET/${UNSET}/$");
  EXPECT_EQ(cache_with({{"HF_HUB_CACHE", "/d/${UNENDED"}}), "/d/${UNENDED");
}

TEST(HubOptionsTest, TheTokenComesFromItsVariableOrItsFile) {
  const test::TemporaryFolder folder;
  folder.write("token", " hf_file\r\n");
  folder.write("other", "hf_other");
  const std::string& home = folder.path();
  EXPECT_EQ(options_with({{"HF_HOME", home}}).token, "hf_file");
  EXPECT_EQ(options_with({{"HF_HOME", home}, {"HF_TOKEN_PATH", home + "/other"}}).token, "hf_other");
  EXPECT_EQ(options_with({{"HF_HOME", home}, {"HF_TOKEN", "hf_variable\n"}}).token, "hf_variable");
  EXPECT_EQ(options_with({{"HUGGING_FACE_HUB_TOKEN", "hf_old"}}).token, "hf_old");
  EXPECT_EQ(options_with({{"HF_HOME", home}, {"HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"}}).token, "");
}

TEST(HubOptionsTest, ATokenCannotAddHeaderFields) {
  EXPECT_EQ(options_with({{"HF_TOKEN", "hf_a\r\nX-Evil: 1"}}).token, "hf_aX-Evil: 1");
}

TEST(HubOptionsTest, SwitchesAreTrueAsPythonHasIt) {
  for (const char* value : {"1", "on", "YES", "True"}) EXPECT_TRUE(options_with({{"HF_HUB_OFFLINE", value}}).offline);
  for (const char* value : {"0", "", "off", "2"}) EXPECT_FALSE(options_with({{"HF_HUB_OFFLINE", value}}).offline);
  EXPECT_TRUE(options_with({{"TRANSFORMERS_OFFLINE", "1"}}).offline);
  EXPECT_FALSE(options_with({{"HF_HUB_DISABLE_PROGRESS_BARS", "1"}}).progress_bars);
}

TEST(HubOptionsTest, TheEndpointLosesItsLastSlash) {
  EXPECT_EQ(options_with({{"HF_ENDPOINT", "https://mirror.example/hf/"}}).endpoint, "https://mirror.example/hf");
}

TEST(HubOptionsTest, WhatMakesNoSenseIsRefusedByTheVariablesName) {
  const auto failure = [](const char* name, const char* value) -> std::string {
    try {
      options_with({{name, value}});
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  };
  EXPECT_THAT(failure("HF_ENDPOINT", "ftp://x"), HasSubstr("HF_ENDPOINT: is 'ftp://x'"));
  EXPECT_THAT(failure("HF_HUB_DOWNLOAD_TIMEOUT", "soon"), HasSubstr("HF_HUB_DOWNLOAD_TIMEOUT: is 'soon'"));
  EXPECT_THAT(failure("HF_HUB_ETAG_TIMEOUT", "0"), HasSubstr("HF_HUB_ETAG_TIMEOUT: is '0'"));
}

TEST(HubOptionsTest, TimeoutsAreTaken) {
  const HubOptions options = options_with({{"HF_HUB_DOWNLOAD_TIMEOUT", "30"}, {"HF_HUB_ETAG_TIMEOUT", "5"}});
  EXPECT_EQ(options.stall_timeout, std::chrono::seconds(30));
  EXPECT_EQ(options.connect_timeout, std::chrono::seconds(5));
}

}  // namespace
}  // namespace mamba2
