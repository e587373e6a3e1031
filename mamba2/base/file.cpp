#include "mamba2/base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <system_error>
#include <utility>

#include "mamba2/base/error.h"

namespace mamba2 {
namespace {

/// 1 MiB: fewer system calls than stdio's 4 KiB, small beside any model.
constexpr std::size_t write_buffer_bytes = 1U << 20;

struct Descriptor {
  int value;
  ~Descriptor() { ::close(value); }
};

void sync_directory_of(const std::string& path) {
  std::string parent = std::filesystem::path(path).parent_path().string();
  if (parent.empty()) parent = ".";
  const int descriptor = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace

MappedFile::MappedFile(std::string path) : path_(std::move(path)) {
  const int opened = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (opened < 0) fail("{}: can't be opened: {}", printable(path_, 4096), error_text(errno));
  const Descriptor descriptor{opened};
  struct stat status {};
  if (::fstat(opened, &status) != 0) fail("{}: can't be read: {}", path_, error_text(errno));
  if (!S_ISREG(status.st_mode)) fail("{}: is no regular file", path_);
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;
  void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, opened, 0);
  if (mapped == MAP_FAILED) fail("{}: can't be mapped: {}", path_, error_text(errno));
  data_ = static_cast<std::byte*>(mapped);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

namespace {

/// The pages that lie wholly inside.
std::span<std::byte> whole_pages(std::span<const std::byte> bytes) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(bytes.data()), last = first + bytes.size();
  const std::uintptr_t begin = (first + page - 1) / page * page, end = last / page * page;
  if (begin >= end) return {};
  return {const_cast<std::byte*>(bytes.data()) + (begin - first), end - begin};
}

}  // namespace

void read_ahead(std::span<const std::byte> mapped) {
  const std::span<std::byte> pages = whole_pages(mapped);
  if (!pages.empty()) ::madvise(pages.data(), pages.size(), MADV_WILLNEED);  // refused: then it is read when needed
}

void release_pages(std::span<const std::byte> mapped) {
  const std::span<std::byte> pages = whole_pages(mapped);
  if (!pages.empty()) ::madvise(pages.data(), pages.size(), MADV_DONTNEED);  // refused: then it stays
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  temporary_ = path_ + ".XXXXXX";
  descriptor_ = ::mkostemp(temporary_.data(), O_CLOEXEC);
  if (descriptor_ < 0) fail("{}: can't be created: {}", printable(path_, 4096), error_text(errno));
  const mode_t mask = ::umask(0);
  ::umask(mask);
  ::fchmod(descriptor_, 0666 & ~mask);
  buffer_.reserve(write_buffer_bytes);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text.data(), text.size())));
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  written_ += bytes.size();
  while (!bytes.empty()) {
    const std::size_t taken = std::min(bytes.size(), write_buffer_bytes - buffer_.size());
    buffer_.append(reinterpret_cast<const char*>(bytes.data()), taken);
    bytes = bytes.subspan(taken);
    if (buffer_.size() == write_buffer_bytes) flush();
  }
}

void AtomicFile::flush() {
  std::string_view rest = buffer_;
  while (!rest.empty()) {
    const ssize_t count = ::write(descriptor_, rest.data(), rest.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("{}: can't be written: {}", path_, error_text(errno));
    rest.remove_prefix(static_cast<std::size_t>(count));
  }
  buffer_.clear();
}

void AtomicFile::sync() {
  flush();
  if (::fsync(descriptor_) != 0) fail("{}: can't be written: {}", path_, error_text(errno));
}

void AtomicFile::commit() {
  sync();
  const int descriptor = std::exchange(descriptor_, -1);
  if (::close(descriptor) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int code = errno;
    ::unlink(temporary_.c_str());
    fail("{}: can't be written: {}", path_, error_text(code));
  }
  sync_directory_of(path_);
}

std::string read_file(const std::string& path, std::uint64_t max_bytes) {
  const MappedFile file(path);
  require(file.size() <= max_bytes, "{}: is {} bytes, expected at most {}", path, file.size(), max_bytes);
  return std::string(file.text());
}

bool file_exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

bool directory_exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

void make_directories(const std::string& path) {
  std::error_code code;
  std::filesystem::create_directories(path, code);
  if (code) fail("{}: can't be created: {}", printable(path, 4096), code.message());
}

std::string join_path(std::string_view parent, std::string_view name) {
  if (parent.empty()) return std::string(name);
  std::string joined(parent);
  if (joined.back() != '/') joined += '/';
  return joined += name;
}

}  // namespace mamba2
