#include "mamba2/hub/download.h"

#include <curl/curl.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <system_error>

#include "mamba2/base/error.h"
#include "mamba2/base/progress.h"
#include "mamba2/hub/file_download.h"

namespace mamba2 {
namespace {

constexpr int poll_milliseconds = 50;  // also how often a lock that another process holds is tried
constexpr auto progress_interval = std::chrono::milliseconds(100);

struct FreeMulti {
  void operator()(CURLM* multi) const { curl_multi_cleanup(multi); }
};

void check(CURLMcode code) {
  require(code == CURLM_OK, "libcurl: {}", curl_multi_strerror(code));
}

/// Drives all files of one download on the calling thread.
class DownloadQueue {
 public:
  DownloadQueue(const HubOptions& options, const HubProgress& progress) : options_(options), progress_(progress) {}
  DownloadQueue(const DownloadQueue&) = delete;
  DownloadQueue& operator=(const DownloadQueue&) = delete;
  ~DownloadQueue() {
    for (const auto& [handle, file] : in_transfer_) curl_multi_remove_handle(multi_.get(), handle);
  }

  void add(std::unique_ptr<FileDownload> download, const RemoteFile& file) {
    downloads_.push_back(std::move(download));
    status_.push_back({file.name, 0, file.size});
  }

  void run() {
    multi_.reset(curl_multi_init());
    require(multi_ != nullptr, "libcurl can't start transfers");
    while (!all_done()) {
      begin_files();
      move_files_on();
      const bool some_finished = perform();
      report();
      if (some_finished || any_can_move_on()) continue;
      check(curl_multi_poll(multi_.get(), nullptr, 0, poll_milliseconds, nullptr));
    }
    report_now();
  }

 private:
  using State = FileDownload::State;

  bool all_done() const {
    return std::all_of(downloads_.begin(), downloads_.end(), [](auto& d) { return d->state() == State::done; });
  }
  bool any_can_move_on() const {
    return std::any_of(downloads_.begin(), downloads_.end(),
                       [](auto& d) { return d->state() == State::hashing || d->state() == State::ready; });
  }

  void begin_files() {
    auto active = static_cast<std::size_t>(std::count_if(downloads_.begin(), downloads_.end(), [](auto& d) {
      return d->state() != State::done && d->state() != State::not_begun;
    }));
    for (auto& download : downloads_) {
      if (active >= std::max<std::size_t>(1, options_.parallel_downloads)) return;
      if (download->state() != State::not_begun) continue;
      if (download->begin() && download->state() != State::done) ++active;
    }
  }

  void move_files_on() {
    const auto now = FileDownload::Clock::now();
    for (auto& download : downloads_) {
      download->wake(now);
      if (download->state() == State::hashing) download->hash_slice();
      if (download->state() != State::ready) continue;
      CURL* handle = download->start_transfer();
      check(curl_multi_add_handle(multi_.get(), handle));
      in_transfer_.emplace(handle, download.get());
    }
  }

  /// Whether a transfer came to an end, which may make room for another.
  bool perform() {
    int running = 0;
    bool some_finished = false;
    check(curl_multi_perform(multi_.get(), &running));
    int queued = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &queued)) {
      if (message->msg != CURLMSG_DONE) continue;
      CURL* handle = message->easy_handle;
      const int code = message->data.result;  // the message is gone once its handle is removed
      check(curl_multi_remove_handle(multi_.get(), handle));
      FileDownload* download = in_transfer_.at(handle);
      in_transfer_.erase(handle);
      download->finish_transfer(code);
      some_finished = true;
    }
    return some_finished;
  }

  void report() {
    const auto now = FileDownload::Clock::now();
    if (now < next_report_) return;
    next_report_ = now + progress_interval;
    report_now();
  }

  void report_now() {
    if (!progress_) return;
    for (std::size_t i = 0; i < downloads_.size(); ++i) status_[i].bytes_done = downloads_[i]->bytes_done();
    progress_(status_);
  }

  const HubOptions& options_;
  const HubProgress& progress_;
  std::vector<std::unique_ptr<FileDownload>> downloads_;
  std::vector<FileProgress> status_;
  std::unique_ptr<CURLM, FreeMulti> multi_;
  std::map<CURL*, FileDownload*> in_transfer_;
  FileDownload::Clock::time_point next_report_{};
};

std::uint64_t size_on_disk(const std::string& path) {
  std::error_code code;
  const std::uintmax_t size = std::filesystem::file_size(path, code);
  return code ? 0 : size;
}

void check_free_space(const ModelCache& cache, const std::string& model, const std::vector<RemoteFile>& files) {
  std::error_code code;
  const auto space = std::filesystem::space(cache.blobs_directory(), code);
  if (code || space.capacity == 0) return;  // the write itself will tell
  std::uint64_t needed = 0;
  for (const RemoteFile& file : files) {
    if (size_on_disk(cache.blob(file.hash)) == file.size) continue;
    needed += file.size - std::min(file.size, size_on_disk(cache.incomplete(file.hash)));
  }
  require(needed <= space.available, "{}: {} needs {} more, {} are free: choose another disk with HF_HOME",
          cache.blobs_directory(), model, format_bytes(needed), format_bytes(space.available));
}

}  // namespace

void download_files(const ModelCache& cache, const HubName& name, const std::string& commit,
                    const std::vector<RemoteFile>& files, const HubOptions& options, const HubProgress& progress) {
  cache.create();
  check_free_space(cache, name.model, files);
  DownloadQueue queue(options, progress);
  std::set<std::string> hashes;  // files of equal content share a blob
  for (const RemoteFile& file : files)
    if (hashes.insert(file.hash).second)
      queue.add(std::make_unique<FileDownload>(cache, name, commit, file, options), file);
  queue.run();
}

}  // namespace mamba2
