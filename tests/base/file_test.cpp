#include "mamba2/base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>

#include "mamba2/base/error.h"
#include "tests/resident_memory.h"
#include "tests/temporary_folder.h"

namespace mamba2 {
namespace {

using ::testing::HasSubstr;

class FileTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_ / name; }
  std::size_t files() const { return folder_.files().size(); }

  test::TemporaryFolder folder_;
};

TEST_F(FileTest, AtomicFileAppearsOnlyOnCommit) {
  {
    AtomicFile file(path("model"));
    file.write("half");
    EXPECT_FALSE(file_exists(path("model")));
  }
  EXPECT_EQ(files(), 0U);
  AtomicFile file(path("model"));
  file.write("whole");
  file.commit();
  EXPECT_EQ(read_file(path("model")), "whole");
  EXPECT_EQ(files(), 1U);
}

std::size_t sum_of(std::span<const std::byte> bytes) {
  std::size_t sum = 0;
  for (const std::byte value : bytes) sum += std::to_integer<std::size_t>(value);
  return sum;
}

TEST_F(FileTest, ReleasedPagesLeaveMemoryAndComeBackWhenRead) {
  constexpr std::size_t size = 16U << 20, begin = 100, end = size - 5000;
  std::ofstream(path("model")) << std::string(size, 'x');
  const MappedFile file(path("model"));
  read_ahead(file.bytes());
  EXPECT_EQ(sum_of(file.bytes()), size * 'x');
  const std::int64_t before = test::resident_file_bytes();
  release_pages(file.bytes().subspan(begin, end - begin));
  EXPECT_LT(test::resident_file_bytes(), before - static_cast<std::int64_t>(size / 2));
  EXPECT_EQ(sum_of(file.bytes()), size * 'x');
  for (const std::size_t less_than_a_page : {std::size_t{0}, std::size_t{1}, std::size_t{4095}})
    release_pages(file.bytes().subspan(begin, less_than_a_page));
  release_pages({});
}

TEST_F(FileTest, AtomicFileLeavesTheOldFileWhenTheDiskIsFull) {
  std::ofstream(path("model")) << "old";
  const auto previous = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  getrlimit(RLIMIT_FSIZE, &limit);
  const rlimit small{1U << 16, limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  {
    AtomicFile file(path("model"));
    const std::string bytes(4U << 20, 'x');
    EXPECT_THROW(
        {
          file.write(bytes);
          file.commit();
        },
        Error);
  }
  setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, previous);
  EXPECT_EQ(read_file(path("model")), "old");
  EXPECT_EQ(files(), 1U);
}

TEST_F(FileTest, MappedFileSaysWhatIsWrong) {
  try {
    const MappedFile file(path("absent"));
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("absent: can't be opened: No such file"));
  }
  EXPECT_THROW(const MappedFile file(folder_.path()), Error);
  std::ofstream(path("empty")).flush();
  EXPECT_EQ(MappedFile(path("empty")).size(), 0U);
}

TEST_F(FileTest, ReadFileRefusesMoreThanItsLimitBeforeItReads) {
  std::ofstream(path("big")) << std::string(1000, 'x');
  EXPECT_THROW(read_file(path("big"), 999), Error);
  EXPECT_EQ(read_file(path("big"), 1000).size(), 1000U);
}

}  // namespace
}  // namespace mamba2
