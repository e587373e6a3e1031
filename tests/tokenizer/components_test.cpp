#include <gtest/gtest.h>

#include "mamba2/base/file.h"
#include "tests/tokenizer/support.h"

namespace mamba2 {
namespace {

TEST(Placeholder, Works) {}

}  // namespace
}  // namespace mamba2
