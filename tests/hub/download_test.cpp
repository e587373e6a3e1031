#include <gmock/gmock.h>
#include <sys/resource.h>

#include <csignal>
#include <numeric>
#include <thread>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/hub/cache.h"
#include "tests/hub/hub_fixture.h"

namespace mamba2 {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* store_path = "/store/model.safetensors";

class DownloadTest : public test::HubFixture {
 protected:
  std::string model_file() const { return root() + "/snapshots/" + hub_.commit() + "/model.safetensors"; }
  /// The Range fields of all requests to the store.
  std::vector<std::string> ranges() const {
    std::vector<std::string> ranges;
    for (const auto& request : hub_.store_requests()) ranges.push_back(request.header("range"));
    return ranges;
  }
};

TEST_F(DownloadTest, ABrokenConnectionIsTakenUpWhereItBroke) {
  hub_.alter_next(store_path, [](test::Response& r) { r.drop_after = 100'000; });
  hub_.alter_next(store_path, [](test::Response& r) { r.drop_after = 50'000; });
  resolve();
  EXPECT_EQ(content_of(model_file()), weights_);
  EXPECT_THAT(ranges(), ::testing::ElementsAre("", "bytes=100000-", "bytes=150000-"));
}

TEST_F(DownloadTest, ALaterRunGoesOnWhereAnEarlierOneBroke) {
  options_.retries = 0;
  hub_.alter_next(store_path, [](test::Response& r) { r.drop_after = 100'000; });
  EXPECT_THAT(failure(), AllOf(HasSubstr("org/name: model.safetensors: can't be fetched from http://127.0.0.1:"),
                               HasSubstr("after 1 try")));
  EXPECT_EQ(fs::file_size(incomplete(weights_)), 100'000U);
  EXPECT_FALSE(fs::exists(root() + "/snapshots"));
  resolve();
  EXPECT_EQ(content_of(model_file()), weights_);
  EXPECT_THAT(ranges(), ::testing::ElementsAre("", "bytes=100000-"));
}

TEST_F(DownloadTest, AnEarlierRunThatOnlyLackedTheRenameNeedsNoRequest) {
  write(incomplete(weights_), weights_);
  resolve();
  EXPECT_EQ(content_of(model_file()), weights_);
  EXPECT_EQ(hub_.count("model.safetensors"), 0U);
}

TEST_F(DownloadTest, AServerThatIgnoresRangesSendsTheWholeAgain) {
  hub_.ignore_ranges();
  hub_.alter_next(store_path, [](test::Response& r) { r.drop_after = 100'000; });
  resolve();
  EXPECT_EQ(content_of(model_file()), weights_);
}

TEST_F(DownloadTest, ARangeOtherThanTheOneAskedForIsRefused) {
  write(incomplete(weights_), weights_.substr(0, 1000));
  hub_.alter_next(store_path, [](test::Response& r) { r.headers["Content-Range"] = "bytes 0-99/300007"; });
  EXPECT_EQ(failure(),
            "org/name: model.safetensors: the server was asked for bytes from 1000 and answers with 'bytes "
            "0-99/300007'");
}

TEST_F(DownloadTest, AnEndThatNobodyAnnouncedIsABreak) {
  hub_.alter_next(store_path, [](test::Response& r) {
    r.without_length = true;
    r.drop_after = 100'000;
  });
  resolve();
  EXPECT_EQ(content_of(model_file()), weights_);
}

TEST_F(DownloadTest, AStalledConnectionIsABreak) {
  options_.stall_timeout = std::chrono::seconds(1);
  hub_.alter_next(store_path, [](test::Response& r) {
    r.drop_after = 100'000;
    r.stall = true;
  });
  resolve();
  EXPECT_THAT(ranges(), ::testing::ElementsAre("", "bytes=100000-"));
}

TEST_F(DownloadTest, WrongBytesAreDeletedAndBothHashesNamed) {
  std::string wrong = weights_;
  wrong[1000] = 'x';
  hub_.alter_next(store_path, [&](test::Response& r) { r.body = wrong; });
  EXPECT_EQ(failure(), "org/name: model.safetensors: the bytes received are wrong: sha256 is " + test::sha256(wrong) +
                           ", expected " + test::sha256(weights_) + "; they were deleted");
  EXPECT_FALSE(fs::exists(incomplete(weights_)));
  EXPECT_FALSE(fs::exists(root() + "/blobs/" + test::sha256(weights_)));
  EXPECT_FALSE(fs::exists(root() + "/snapshots"));
  EXPECT_FALSE(fs::exists(root() + "/refs"));
}

TEST_F(DownloadTest, WrongBytesOfASmallFileAreFoundByItsGitHash) {
  hub_.alter_next("/tokenizer.json", [](test::Response& r) { r.body = "[]"; });
  EXPECT_THAT(failure(), HasSubstr("tokenizer.json: the bytes received are wrong: git blob sha1 is " +
                                   test::git_hash("[]") + ", expected " + test::git_hash("{}")));
}

TEST_F(DownloadTest, DamagedBytesOfAnEarlierRunAreFetchedAgain) {
  write(incomplete(weights_), std::string(1000, 'x'));
  resolve();
  EXPECT_EQ(content_of(model_file()), weights_);
  EXPECT_THAT(ranges(), ::testing::ElementsAre("bytes=1000-", ""));
}

TEST_F(DownloadTest, APartialFileLongerThanTheWholeIsFetchedAgain) {
  write(incomplete(weights_), weights_ + "more");
  resolve();
  EXPECT_EQ(content_of(model_file()), weights_);
}

TEST_F(DownloadTest, ALinkInPlaceOfAPartialFileIsNotFollowed) {
  write(folder_ / "victim", "precious");
  fs::create_directories(root() + "/blobs");
  fs::create_symlink(folder_ / "victim", incomplete(weights_));
  EXPECT_THAT(failure(), HasSubstr(".incomplete: can't be created"));
  EXPECT_EQ(content_of(folder_ / "victim"), "precious");
}

TEST_F(DownloadTest, AnotherSizeThanTheListedOneIsRefusedBeforeTheBytes) {
  hub_.alter_next(store_path, [](test::Response& r) { r.announced_length = 7; });
  EXPECT_EQ(failure(), "org/name: model.safetensors: the server offers 7 bytes, expected 300007");
}

TEST_F(DownloadTest, MoreBytesThanExpectedAreNotWritten) {
  hub_.alter_next(store_path, [](test::Response& r) {
    r.body += std::string(1'000'000, 'x');
    r.without_length = true;
  });
  EXPECT_EQ(failure(), "org/name: model.safetensors: the server sends more than the 300007 bytes expected");
  EXPECT_LE(fs::file_size(incomplete(weights_)), weights_.size());
}

TEST_F(DownloadTest, ABusyServerIsAskedAgain) {
  for (const char* target : {"/api/", "/resolve/", store_path}) {
    hub_.alter_next(target, [](test::Response& r) { r.status = 503; });
    hub_.alter_next(target, [](test::Response& r) { r.status = 429; });
  }
  resolve();
  EXPECT_EQ(content_of(model_file()), weights_);
}

TEST_F(DownloadTest, AServerThatStaysBusyIsGivenUp) {
  for (int i = 0; i <= options_.retries; ++i) hub_.alter_next(store_path, [](test::Response& r) { r.status = 500; });
  EXPECT_THAT(failure(), HasSubstr("after 6 tries: the server answers 500"));
}

TEST_F(DownloadTest, AServerThatIsNotThereIsNamed) {
  options_.endpoint = "http://127.0.0.1:1";
  options_.retries = 1;
  EXPECT_THAT(failure(), HasSubstr("org/name: can't be fetched from http://127.0.0.1:1 after 2 tries: "));
}

TEST_F(DownloadTest, ARefusalOfTheStoreIsNotBlamedOnTheToken) {
  hub_.alter_next(store_path, [](test::Response& r) { r.status = 403; });
  const std::string message = failure();
  EXPECT_THAT(message, AllOf(HasSubstr("org/name: model.safetensors: http://127.0.0.1:"), HasSubstr(" answers 403")));
  EXPECT_THAT(message, ::testing::Not(HasSubstr("HF_TOKEN")));
}

TEST_F(DownloadTest, RedirectsThatNeverEndAreRefused) {
  for (int i = 0; i < 12; ++i)
    hub_.alter_next("/api/", [](test::Response& r) {
      r.status = 307;
      r.headers["Location"] = "/api/models/org/name/revision/main";
    });
  EXPECT_THAT(failure(), HasSubstr("org/name: more than 10 redirects from"));
}

TEST_F(DownloadTest, ARedirectToAFileOfThisMachineIsRefused) {
  hub_.alter_next("/resolve/", [](test::Response& r) {
    r.status = 302;
    r.headers["Location"] = "file:///etc/passwd";
  });
  EXPECT_THAT(failure(), HasSubstr("can't be fetched from"));
}

TEST_F(DownloadTest, SeveralFilesComeAtOnce) {
  hub_.remove_file("model.safetensors");
  hub_.add_file("model.safetensors.index.json", R"({"weight_map": {"x": "1", "y": "2", "z": "3"}})");
  for (const char* name : {"1", "2", "3"}) hub_.add_large_file(name, std::string("shard ") + name);
  hub_.gather(3);  // a client that fetches one after the other waits here in vain
  resolve();
  EXPECT_EQ(hub_.most_at_once(), 3U);
}

TEST_F(DownloadTest, NoMoreFilesThanAskedForComeAtOnce) {
  hub_.remove_file("model.safetensors");
  hub_.add_file("model.safetensors.index.json", R"({"weight_map": {"w": "1", "x": "2", "y": "3", "z": "4"}})");
  for (const char* name : {"1", "2", "3", "4"}) hub_.add_large_file(name, std::string("shard ") + name);
  options_.parallel_downloads = 2;
  resolve();
  EXPECT_LE(hub_.most_at_once(), 2U);
}

TEST_F(DownloadTest, OneFileAtATimeIsTheLeast) {
  options_.parallel_downloads = 0;
  resolve();
  EXPECT_EQ(content_of(model_file()), weights_);
}

TEST_F(DownloadTest, AFileThatAnotherProcessFetchesIsWaitedForAndNotFetchedAgain) {
  const ModelCache cache(options_.cache_directory, "org/name");
  cache.create();
  auto lock = FileLock::try_acquire(cache.lock(test::sha256(weights_)));
  ASSERT_TRUE(lock.has_value());
  std::string folder;
  std::thread other([&] { folder = resolve(); });
  hub_.wait_for("/tokenizer.json");
  write(cache.blob(test::sha256(weights_)), weights_);
  lock.reset();
  other.join();
  EXPECT_EQ(content_of(folder + "/model.safetensors"), weights_);
  EXPECT_EQ(hub_.count("model.safetensors"), 0U);
}

TEST_F(DownloadTest, TwoAtATimeFetchEachFileOnce) {
  std::thread other([&] { resolve(); });
  resolve();
  other.join();
  EXPECT_EQ(content_of(model_file()), weights_);
  EXPECT_EQ(hub_.store_requests().size(), 1U);
}

TEST_F(DownloadTest, ProgressEndsWithAllBytesOfAllFiles) {
  std::vector<FileProgress> last;
  resolve_hub_model("org/name", options_,
                    [&](std::span<const FileProgress> files) { last.assign(files.begin(), files.end()); });
  ASSERT_EQ(last.size(), 3U);
  std::uint64_t total = 0;
  for (const FileProgress& file : last) {
    EXPECT_EQ(file.bytes_done, file.bytes_total) << file.name;
    total += file.bytes_total;
  }
  EXPECT_EQ(total, weights_.size() + std::string(R"({"model_type": "mamba2"}{})").size());
}

TEST_F(DownloadTest, WhatTheProgressThrowsEndsTheDownloadAndKeepsItsBytes) {
  hub_.alter_next(store_path, [](test::Response& r) {
    r.drop_after = 100'000;
    r.stall = true;
  });
  const auto interrupt = [&](std::span<const FileProgress> files) {
    for (const FileProgress& file : files)
      if (file.bytes_done == 100'000) throw std::runtime_error("interrupted");
  };
  EXPECT_THROW(resolve_hub_model("org/name", options_, interrupt), std::runtime_error);
  EXPECT_EQ(fs::file_size(incomplete(weights_)), 100'000U);
  resolve();
  EXPECT_EQ(content_of(model_file()), weights_);
}

TEST_F(DownloadTest, AFullDiskIsNamedAndWhatWasWrittenKept) {
  const auto previous = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  getrlimit(RLIMIT_FSIZE, &limit);
  const rlimit small{1U << 16, limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string message = failure();
  setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, previous);
  EXPECT_THAT(message, HasSubstr(".incomplete: can't be written: File too large"));
  EXPECT_EQ(fs::file_size(incomplete(weights_)), 1U << 16);
}

TEST_F(DownloadTest, MoreThanTheDiskHoldsIsRefusedBeforeTheFirstByte) {
  hub_.alter_next("/api/", [](test::Response& r) {
    const std::size_t at = r.body.find("300007");
    for (std::size_t i = at; i != std::string::npos; i = r.body.find("300007", i))
      r.body.replace(i, 6, "999999999999999");
  });
  EXPECT_THAT(failure(), AllOf(HasSubstr("org/name needs 1.00 PB more"), HasSubstr("are free")));
  EXPECT_EQ(hub_.count("/resolve/"), 0U);
}

}  // namespace
}  // namespace mamba2
