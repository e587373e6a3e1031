#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "mamba2/hub/cache.h"
#include "mamba2/hub/name.h"
#include "mamba2/hub/options.h"

namespace mamba2 {

/// A file of a commit as the Hub describes it.
struct RemoteFile {
  std::string name;
  std::uint64_t size = 0;
  std::string hash;  // is_file_hash(); also the blob's name in the cache
};

struct FileProgress {
  std::string name;
  std::uint64_t bytes_done = 0;
  std::uint64_t bytes_total = 0;
};

/// Called about ten times a second with all files of the download under way, and once at its end.  What it throws ends
/// the download, which a later one resumes.
using HubProgress = std::function<void(std::span<const FileProgress>)>;

/// Fetches each file into the cache's blobs unless it is there: several at once, each under its lock, into
/// HASH.incomplete, from where an earlier attempt broke off; then checked against size and hash, synced and renamed.
/// Bytes that don't match are deleted.  Throws Error that names the model and the file.
void download_files(const ModelCache& cache, const HubName& name, const std::string& commit,
                    const std::vector<RemoteFile>& files, const HubOptions& options, const HubProgress& progress);

}  // namespace mamba2
