#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mamba2 {

/// One model's folder in the Hugging Face cache, as the Python client lays it out:
///   models--ORG--NAME/blobs/HASH             the bytes, HASH the file's sha256 (LFS) or git blob sha1
///   models--ORG--NAME/refs/REVISION          the commit a branch or a tag pointed to when it was last looked up
///   models--ORG--NAME/snapshots/COMMIT/FILE  a relative link to ../../blobs/HASH
///   models--ORG--NAME/.no_exist/COMMIT/FILE  empty: the commit is known to hold no such file
///   .locks/models--ORG--NAME/HASH.lock       flock()ed while the blob is fetched
class ModelCache {
 public:
  ModelCache(const std::string& cache_directory, std::string_view model);

  /// The commit that a branch, a tag or a commit hash stands for here; nothing where it was never looked up.
  std::optional<std::string> commit_of(const std::string& revision) const;

  std::string snapshot(std::string_view commit) const;
  std::string blob(std::string_view hash) const;
  std::string incomplete(std::string_view hash) const { return blob(hash) + ".incomplete"; }
  std::string lock(std::string_view hash) const;
  std::string blobs_directory() const;
  bool is_known_absent(std::string_view commit, std::string_view file) const;

  /// Creates the folders that blobs and locks go to, and the tag that backup programs look for.
  void create() const;
  /// Makes the snapshot's file a link to the blob; leaves a file or a good link that is there already.
  void link(std::string_view commit, const std::string& file, std::string_view hash) const;
  void write_ref(const std::string& revision, const std::string& commit) const;
  /// Left undone where the cache can't be written: it only saves a request later.
  void mark_absent(std::string_view commit, std::string_view file) const;

 private:
  std::string cache_directory_;
  std::string folder_;  // models--ORG--NAME
  std::string root_;    // cache_directory/models--ORG--NAME
};

/// Holds a lock file, the one that the Python client takes for the same blob; released on destruction.
class FileLock {
 public:
  /// Nothing where another process holds it.  Throws Error that names the path where it can't be created.
  static std::optional<FileLock> try_acquire(const std::string& path);

  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&& other) noexcept;
  ~FileLock();

 private:
  explicit FileLock(int descriptor) : descriptor_(descriptor) {}

  int descriptor_;
};

}  // namespace mamba2
