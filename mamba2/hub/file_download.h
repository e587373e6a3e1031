#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "mamba2/hub/digest.h"
#include "mamba2/hub/download.h"
#include "mamba2/hub/http.h"

namespace mamba2 {

/// One file on its way into the cache.  The owner moves it on: begin() until the lock is there; then, by state(), a
/// slice of hashing, a transfer or a wait; until it is done.
class FileDownload : private HttpReceiver {
 public:
  using Clock = std::chrono::steady_clock;
  enum class State { not_begun, hashing, ready, waiting, transferring, done };

  FileDownload(const ModelCache& cache, const HubName& name, const std::string& commit, const RemoteFile& file,
               const HubOptions& options);
  FileDownload(const FileDownload&) = delete;
  FileDownload& operator=(const FileDownload&) = delete;
  ~FileDownload() override;

  State state() const { return state_; }
  std::uint64_t bytes_done() const { return offset_; }

  /// Takes the lock and opens what an earlier attempt left; false while another process has the lock.
  bool begin();
  /// Hashes some more of what an earlier attempt left; state() stays hashing until all of it is.
  void hash_slice();
  /// Sets up the handle for libcurl to perform.
  CURL* start_transfer();
  void finish_transfer(int curl_code);
  /// Leaves waiting for ready when the time has come.
  void wake(Clock::time_point now);

 private:
  void on_head(const HttpHead& head) override;
  void on_body(std::string_view bytes) override;
  void take(HttpRequest::Next next);
  void open_partial();
  void restart();
  void after_last_byte();
  void publish();
  std::string name_text() const;

  const ModelCache& cache_;
  const RemoteFile& file_;
  std::string model_;
  std::string path_;  // of the partial file
  HttpRequest request_;
  std::optional<FileLock> lock_;
  Digest digest_;
  State state_ = State::not_begun;
  int descriptor_ = -1;
  std::uint64_t offset_ = 0;        // bytes in the partial file, all of them hashed unless hashing
  std::uint64_t hashed_ = 0;        // of them hashed so far
  std::uint64_t furthest_ = 0;      // the largest offset ever: what counts as progress
  bool has_earlier_bytes_ = false;  // some come from a run before this one
  bool told_of_lock_ = false;
  Clock::time_point wake_at_;
};

}  // namespace mamba2
