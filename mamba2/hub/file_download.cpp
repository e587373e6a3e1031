#include "mamba2/hub/file_download.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/base/log.h"

namespace mamba2 {
namespace {

/// About 10 ms of hashing, so that other transfers move on in between.
constexpr std::size_t hash_slice_bytes = 8 << 20;

std::string url_of(const HubOptions& options, const HubName& name, const std::string& commit, const std::string& file) {
  return fmt::format("{}/{}/resolve/{}/{}", options.endpoint, name.model, commit, url_quote(file, "/"));
}

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

/// Where a 206 answer's bytes begin: "bytes 100-999/1000".
std::optional<std::uint64_t> range_start(std::string_view content_range) {
  constexpr std::string_view unit = "bytes ";
  if (!content_range.starts_with(unit)) return std::nullopt;
  content_range.remove_prefix(unit.size());
  return number(content_range.substr(0, content_range.find('-')));
}

bool has_size(const std::string& path, std::uint64_t size) {
  std::error_code code;
  return std::filesystem::is_regular_file(path, code) && std::filesystem::file_size(path, code) == size && !code;
}

}  // namespace

FileDownload::FileDownload(const ModelCache& cache, const HubName& name, const std::string& commit,
                           const RemoteFile& file, const HubOptions& options)
    : cache_(cache),
      file_(file),
      model_(name.model),
      path_(cache.incomplete(file.hash)),
      request_(HttpMethod::get, url_of(options, name, commit, file.name), {name.model, name.revision, file.name},
               options, *this),
      digest_(file.hash, file.size) {}

FileDownload::~FileDownload() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::string FileDownload::name_text() const {
  return fmt::format("{}: {}", model_, printable(file_.name));
}

bool FileDownload::begin() {
  const std::string blob = cache_.blob(file_.hash);
  if (!has_size(blob, file_.size)) {
    lock_ = FileLock::try_acquire(cache_.lock(file_.hash));
    if (!lock_) {
      if (!std::exchange(told_of_lock_, true)) log_info("{}: another process fetches it; waiting", name_text());
      return false;
    }
  }
  if (has_size(blob, file_.size)) {  // it was there, or another process fetched it in the meantime
    offset_ = file_.size;
    lock_.reset();
    state_ = State::done;
    return true;
  }
  open_partial();
  state_ = State::hashing;
  return true;
}

void FileDownload::open_partial() {
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (descriptor_ < 0) fail("{}: can't be created: {}", path_, error_text(errno));
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail("{}: can't be read: {}", path_, error_text(errno));
  offset_ = static_cast<std::uint64_t>(status.st_size);
  if (offset_ > file_.size) restart();
  has_earlier_bytes_ = offset_ > 0;
  furthest_ = offset_;
}

void FileDownload::restart() {
  if (::ftruncate(descriptor_, 0) != 0) fail("{}: can't be written: {}", path_, error_text(errno));
  digest_ = Digest(file_.hash, file_.size);
  offset_ = hashed_ = 0;
  has_earlier_bytes_ = false;
}

void FileDownload::hash_slice() {
  std::vector<char> buffer(static_cast<std::size_t>(std::min<std::uint64_t>(hash_slice_bytes, offset_ - hashed_)));
  if (!buffer.empty()) {
    const ssize_t count = ::pread(descriptor_, buffer.data(), buffer.size(), static_cast<off_t>(hashed_));
    if (count < 0 && errno == EINTR) return;
    if (count <= 0) fail("{}: can't be read: {}", path_, count < 0 ? error_text(errno) : "it became shorter");
    digest_.update({buffer.data(), static_cast<std::size_t>(count)});
    hashed_ += static_cast<std::uint64_t>(count);
  }
  if (hashed_ < offset_) return;
  if (offset_ == file_.size)
    after_last_byte();
  else
    state_ = State::ready;
}

CURL* FileDownload::start_transfer() {
  request_.prepare(offset_);
  state_ = State::transferring;
  return request_.handle();
}

void FileDownload::on_head(const HttpHead& head) {
  if (head.status == 206) {
    const auto start = range_start(head.field("content-range"));
    require(start == offset_, "{}: the server was asked for bytes from {} and answers with '{}'", name_text(), offset_,
            printable(head.field("content-range")));
  } else if (offset_ > 0) {
    log_debug("{}: the server sends the whole file again", name_text());
    restart();
  }
  const auto length = number(head.field("content-length"));
  if (length && head.field("content-encoding").empty())
    require(*length == file_.size - offset_, "{}: the server offers {} bytes, expected {}", name_text(),
            offset_ + *length, file_.size);
}

void FileDownload::on_body(std::string_view bytes) {
  require(bytes.size() <= file_.size - offset_, "{}: the server sends more than the {} bytes expected", name_text(),
          file_.size);
  digest_.update({bytes.data(), bytes.size()});
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset_));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("{}: can't be written: {}", path_, error_text(errno));
    bytes.remove_prefix(static_cast<std::size_t>(count));
    offset_ += static_cast<std::uint64_t>(count);
  }
  hashed_ = offset_;
  if (offset_ > furthest_) {
    furthest_ = offset_;
    request_.note_progress();
  }
}

void FileDownload::finish_transfer(int curl_code) {
  const auto next = request_.finish(curl_code);
  // A server that doesn't say how long its answer is may have broken off without libcurl's seeing it.
  const bool short_of_bytes = next == HttpRequest::Next::done && offset_ < file_.size;
  take(short_of_bytes ? request_.retry(fmt::format("the server ends after {} of {} bytes", offset_, file_.size))
                      : next);
}

void FileDownload::take(HttpRequest::Next next) {
  switch (next) {
    case HttpRequest::Next::done: after_last_byte(); return;
    case HttpRequest::Next::now: state_ = State::ready; return;
    case HttpRequest::Next::after_wait:
      state_ = State::waiting;
      wake_at_ = Clock::now() + request_.wait();
      return;
  }
}

void FileDownload::after_last_byte() {
  const std::string found = digest_.finish();
  if (found == file_.hash) {
    publish();
    return;
  }
  if (has_earlier_bytes_) {
    // What an earlier run left may be to blame, and one fresh try tells.
    log_info("{}: what an earlier download left is damaged; starting again", name_text());
    restart();
    state_ = State::ready;
    return;
  }
  ::unlink(path_.c_str());
  fail("{}: the bytes received are wrong: {} is {}, expected {}; they were deleted", name_text(),
       file_.hash.size() == 64 ? "sha256" : "git blob sha1", found, file_.hash);
}

void FileDownload::publish() {
  if (::fsync(descriptor_) != 0) fail("{}: can't be written: {}", path_, error_text(errno));
  const int descriptor = std::exchange(descriptor_, -1);
  const std::string blob = cache_.blob(file_.hash);
  if (::close(descriptor) != 0 || ::rename(path_.c_str(), blob.c_str()) != 0)
    fail("{}: can't be written: {}", blob, error_text(errno));
  lock_.reset();
  state_ = State::done;
}

void FileDownload::wake(Clock::time_point now) {
  if (state_ == State::waiting && now >= wake_at_) state_ = State::ready;
}

}  // namespace mamba2
