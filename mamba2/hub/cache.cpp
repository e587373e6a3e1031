#include "mamba2/hub/cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/base/file.h"
#include "mamba2/hub/name.h"

namespace mamba2 {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t max_ref_bytes = 4096;
constexpr mode_t lock_mode = 0664;  // so that a group shares a cache, as the Python client has it

/// https://bford.info/cachedir/
constexpr std::string_view cache_tag =
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file is a cache directory tag: what lies here can be downloaded again.\n";

std::string folder_name(std::string_view model) {
  std::string name = "models--";
  for (const char c : model) name += c == '/' ? std::string("--") : std::string(1, c);
  return name;
}

std::string without_trailing_blanks(std::string text) {
  text.erase(std::find_if(text.rbegin(), text.rend(), [](unsigned char c) { return c > 0x20; }).base(), text.end());
  return text;
}

}  // namespace

ModelCache::ModelCache(const std::string& cache_directory, std::string_view model)
    : cache_directory_(cache_directory), folder_(folder_name(model)), root_(join_path(cache_directory, folder_)) {}

std::optional<std::string> ModelCache::commit_of(const std::string& revision) const {
  if (is_commit_hash(revision)) return revision;
  const std::string path = join_path(join_path(root_, "refs"), revision);
  if (!file_exists(path)) return std::nullopt;
  std::string commit = without_trailing_blanks(read_file(path, max_ref_bytes));
  require(is_commit_hash(commit), "{}: holds '{}', expected a commit's 40 hexadecimal digits", path, printable(commit));
  return commit;
}

std::string ModelCache::snapshot(std::string_view commit) const {
  return join_path(join_path(root_, "snapshots"), commit);
}

std::string ModelCache::blobs_directory() const {
  return join_path(root_, "blobs");
}

std::string ModelCache::blob(std::string_view hash) const {
  return join_path(blobs_directory(), hash);
}

std::string ModelCache::lock(std::string_view hash) const {
  return join_path(join_path(join_path(cache_directory_, ".locks"), folder_), std::string(hash) + ".lock");
}

bool ModelCache::is_known_absent(std::string_view commit, std::string_view file) const {
  return file_exists(join_path(join_path(join_path(root_, ".no_exist"), commit), file));
}

void ModelCache::create() const {
  make_directories(blobs_directory());
  make_directories(join_path(join_path(cache_directory_, ".locks"), folder_));
  const std::string tag = join_path(cache_directory_, "CACHEDIR.TAG");
  if (file_exists(tag)) return;
  AtomicFile file(tag);
  file.write(cache_tag);
  file.commit();
}

void ModelCache::link(std::string_view commit, const std::string& file, std::string_view hash) const {
  const std::string path = join_path(snapshot(commit), file);
  if (file_exists(path)) return;  // follows a link: false for one whose blob is gone
  make_directories(fs::path(path).parent_path().string());
  std::string target = "../../";
  for (const char c : file)
    if (c == '/') target += "../";
  target += "blobs/" + std::string(hash);
  // A rename replaces a broken link in one step.
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  ::unlink(temporary.c_str());
  if (::symlink(target.c_str(), temporary.c_str()) != 0) fail("{}: can't be linked: {}", path, error_text(errno));
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const int code = errno;
    ::unlink(temporary.c_str());
    fail("{}: can't be linked: {}", path, error_text(code));
  }
}

void ModelCache::write_ref(const std::string& revision, const std::string& commit) const {
  if (revision == commit) return;
  const std::string path = join_path(join_path(root_, "refs"), revision);
  if (file_exists(path) && read_file(path, max_ref_bytes) == commit) return;
  make_directories(fs::path(path).parent_path().string());
  AtomicFile file(path);
  file.write(commit);
  file.commit();
}

void ModelCache::mark_absent(std::string_view commit, std::string_view file) const {
  const fs::path path = join_path(join_path(join_path(root_, ".no_exist"), commit), file);
  std::error_code ignored;
  fs::create_directories(path.parent_path(), ignored);
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor >= 0) ::close(descriptor);
}

std::optional<FileLock> FileLock::try_acquire(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, lock_mode);
  if (descriptor < 0) fail("{}: can't be created: {}", path, error_text(errno));
  FileLock lock(descriptor);
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK || errno == EINTR) return std::nullopt;
    fail("{}: can't be locked: {}", path, error_text(errno));
  }
  // The Python client may remove the file when it lets go of it; a lock on a file without a name guards nothing.
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 || status.st_nlink == 0) return std::nullopt;
  return lock;
}

FileLock::FileLock(FileLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

FileLock::~FileLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace mamba2
