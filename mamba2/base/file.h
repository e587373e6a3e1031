#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace mamba2 {

/// A whole file mapped read-only and shared; its pages come from and return to the page cache.  Throws Error that names
/// the path where the file can't be opened or is no regular file.  Moved, never copied.
class MappedFile {
 public:
  explicit MappedFile(std::string path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  std::size_t size() const { return size_; }
  const std::byte* data() const { return data_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  std::string path_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Parts of a MappedFile, and of nothing else.  read_ahead: will be read soon, so the system may get them from disk
/// meanwhile.  release_pages: will not be read for a while; whole pages inside leave this process's memory, stay in the
/// page cache, and come back when they are read after all.
void read_ahead(std::span<const std::byte> mapped);
void release_pages(std::span<const std::byte> mapped);

/// Writes a file that is complete or absent: bytes go to a temporary name beside it, commit() syncs it and renames it
/// over the target, the destructor without commit() removes it.  Throws Error that names the path (a full disk, no
/// permission).
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  std::uint64_t written() const { return written_; }
  /// Brings what is written to disk, still under the temporary name, so that commit() has no more than a rename to do.
  void sync();
  void commit();

 private:
  void flush();

  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
  std::uint64_t written_ = 0;
  std::string buffer_;
};

/// The whole file as a string; Error where it can't be read or is over max_bytes.
std::string read_file(const std::string& path, std::uint64_t max_bytes = 1ULL << 30);

bool file_exists(const std::string& path);
bool directory_exists(const std::string& path);
/// Creates the directory and its parents; Error that names the path.
void make_directories(const std::string& path);
/// parent + "/" + name, without a doubled slash.
std::string join_path(std::string_view parent, std::string_view name);

}  // namespace mamba2
