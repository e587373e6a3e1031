#include <gtest/gtest.h>

#include "mamba2/base/error.h"
#include "mamba2/ops/backend.h"

namespace mamba2 {
namespace {

TEST(MakeBackend, OpensEveryDeviceByItsName) {
  EXPECT_EQ(make_backend({.device = "reference"})->name(), "reference");
  EXPECT_EQ(make_backend({.device = "cpu", .threads = 1})->name(), "cpu");
  EXPECT_EQ(make_backend({.device = "auto", .threads = 1})->name(), "cpu");
}

TEST(MakeBackend, NamesADeviceThatIsNotThere) {
  EXPECT_THROW(make_backend({.device = "tpu"}), Error);
}

}  // namespace
}  // namespace mamba2
