#include "mamba2/base/progress.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

namespace mamba2 {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

constexpr ProgressBar::Clock::duration no_delay{};

/// A terminal of its own, 100 columns wide.
class Terminal {
 public:
  Terminal() : master_(::posix_openpt(O_RDWR | O_NOCTTY)) {
    ::grantpt(master_);
    ::unlockpt(master_);
    if (const char* const path = ::ptsname(master_)) slave_ = ::open(path, O_RDWR | O_NOCTTY);
    const winsize size{.ws_row = 24, .ws_col = 100, .ws_xpixel = 0, .ws_ypixel = 0};
    ::ioctl(slave_, TIOCSWINSZ, &size);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal() {
    ::close(slave_);
    ::close(master_);
  }
  /// False where the system has none to give, as in a bare chroot without devpts.
  bool there() const { return slave_ >= 0; }
  int descriptor() const { return slave_; }
  /// What was written so far.
  std::string written() const {
    ::fcntl(master_, F_SETFL, O_NONBLOCK);
    std::array<char, 4096> buffer{};
    const ssize_t count = ::read(master_, buffer.data(), buffer.size());
    return count > 0 ? std::string(buffer.data(), static_cast<std::size_t>(count)) : std::string();
  }

 private:
  int master_;
  int slave_ = -1;
};

class ProgressBarTest : public ::testing::Test {
 protected:
  void SetUp() override { ::setenv("TERM", "xterm", 1); }
};

TEST(ProgressTest, BytesAreShownWithThreeDigits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.00 kB");
  EXPECT_EQ(format_bytes(999'499), "999 kB");
  EXPECT_EQ(format_bytes(999'500), "1.00 MB");
  EXPECT_EQ(format_bytes(4'980'000'000), "4.98 GB");
  EXPECT_EQ(format_bytes(UINT64_MAX), "18.4 EB");
}

TEST(ProgressTest, ALineSaysShareAmountRateAndTimeLeft) {
  const Progress half{.done = 500, .total = 1000, .seconds = 10};
  EXPECT_EQ(progress_line("perplexity", half, 120),
            "perplexity  50% [============            ] 500 of 1000, 50/s, 0:10 left");
  const Progress hours{.done = 1'000'000, .total = 5'000'000'000, .seconds = 1, .unit = ProgressUnit::bytes};
  EXPECT_THAT(progress_line("x", hours, 120), EndsWith("1.00 MB of 5.00 GB, 1.00 MB/s, 1:23:19 left"));
}

TEST(ProgressTest, WhatWasThereBeforeDoesNotCountForTheRate) {
  const Progress resumed{.done = 900, .total = 1000, .before = 800, .seconds = 10};
  EXPECT_THAT(progress_line("x", resumed, 120), HasSubstr("10/s"));
}

TEST(ProgressTest, ALineFitsItsColumns) {
  const Progress half{.done = 500, .total = 1000, .seconds = 10};
  for (std::size_t columns = 0; columns < 100; ++columns)
    EXPECT_LE(progress_line("perplexity", half, columns).size(), columns);
}

TEST(ProgressTest, MoreDoneThanExpectedIsStillAHundredPercent) {
  EXPECT_THAT(progress_line("x", {.done = 12, .total = 10}, 120), HasSubstr("100% [========================]"));
}

TEST_F(ProgressBarTest, ABarIsGoneAtTheEnd) {
  const Terminal terminal;
  if (!terminal.there()) GTEST_SKIP() << "there are no pseudo-terminals";
  {
    ProgressBar bar("convert", 10, ProgressUnit::items, terminal.descriptor(), no_delay);
    bar.update(5);
    EXPECT_THAT(terminal.written(), HasSubstr("convert  50%"));
  }
  EXPECT_THAT(terminal.written(), EndsWith("\r\x1b[K"));
}

TEST_F(ProgressBarTest, AShortTaskShowsNothing) {
  const Terminal terminal;
  {
    ProgressBar bar("convert", 10, ProgressUnit::items, terminal.descriptor(), std::chrono::hours(1));
    bar.update(10);
  }
  EXPECT_EQ(terminal.written(), "");
}

TEST_F(ProgressBarTest, NothingIsWrittenWhereThereIsNoTerminal) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  {
    ProgressBar bar("convert", 10, ProgressUnit::items, ends[1], no_delay);
    bar.update(5);
  }
  ::close(ends[1]);
  char byte = 0;
  EXPECT_EQ(::read(ends[0], &byte, 1), 0);
  ::close(ends[0]);
}

}  // namespace
}  // namespace mamba2
