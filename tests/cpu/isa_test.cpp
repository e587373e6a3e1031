#include "mamba2/cpu/isa.h"

#include <gmock/gmock.h>

#include <cstdlib>

#include "mamba2/base/error.h"
#include "mamba2/cpu/cpu_backend.h"

namespace mamba2::cpu {
namespace {

/// Sets MAMBA2_ISA for one test and puts back what was there.
class ForcedIsa {
 public:
  explicit ForcedIsa(const char* value) {
    if (const char* old = std::getenv("MAMBA2_ISA")) before_ = old;
    setenv("MAMBA2_ISA", value, 1);
  }
  ForcedIsa(const ForcedIsa&) = delete;
  ForcedIsa& operator=(const ForcedIsa&) = delete;
  ~ForcedIsa() { before_.empty() ? unsetenv("MAMBA2_ISA") : setenv("MAMBA2_ISA", before_.c_str(), 1); }

 private:
  std::string before_;
};

TEST(Isa, TheStrongestIsChosenWhereNoneIsForced) {
  const ForcedIsa forced("");
  EXPECT_EQ(choose_isa(), available_isas().back());
}

TEST(Isa, EveryAvailableOneCanBeForced) {
  for (const Isa isa : available_isas()) {
    const ForcedIsa forced(std::string(name(isa)).c_str());
    EXPECT_EQ(choose_isa(), isa);
  }
}

TEST(Isa, AnUnknownNameIsAnErrorThatListsTheKnownOnes) {
  const ForcedIsa forced("avx1024");
  try {
    make_cpu_backend(1);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("portable, avx2, avx512, avx512_vnni, avx512_bf16, amx"));
  }
}

TEST(Isa, WhatTheProcessorLacksIsAnError) {
  if (available_isas().back() == Isa::amx) GTEST_SKIP() << "this processor has them all";
  const ForcedIsa forced("amx");
  EXPECT_THROW(make_cpu_backend(1), Error);
}

}  // namespace
}  // namespace mamba2::cpu
