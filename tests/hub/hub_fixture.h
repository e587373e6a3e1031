#pragma once

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "mamba2/hub/hub.h"
#include "tests/hub/fake_hub.h"
#include "tests/temporary_folder.h"

namespace mamba2::test {

/// A hub with a small model of one weight file, and an empty cache.
class HubFixture : public ::testing::Test {
 protected:
  static void SetUpTestSuite();
  void SetUp() override;

  std::string resolve(const std::string& name = "org/name") const { return resolve_hub_model(name, options_); }
  /// What resolving fails with; empty where it doesn't.
  std::string failure(const std::string& name = "org/name") const;

  std::string root() const { return options_.cache_directory + "/models--org--name"; }
  std::string incomplete(const std::string& content) const {
    return root() + "/blobs/" + sha256(content) + ".incomplete";
  }
  /// Names of all that lies in a folder, at any depth, folders left out.
  static std::set<std::string> files_in(const std::string& folder);
  static std::string content_of(const std::string& path);
  static void write(const std::string& path, const std::string& content);

  TemporaryFolder folder_;
  std::string weights_ = std::string(300'000, 'w') + "the end";
  FakeHub hub_;
  HubOptions options_;
};

}  // namespace mamba2::test
