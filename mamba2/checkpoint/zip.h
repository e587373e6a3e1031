#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mamba2 {

/// One stored file of a zip archive: bytes [begin, begin + size) of the archive.
struct ZipEntry {
  std::string_view name;
  std::size_t begin = 0, size = 0;
};

/// The directory of a zip archive whose entries are stored, not compressed, so that they can be used where they lie.
/// (PKWARE APPNOTE.TXT 6.3, with its zip64 records.)  Throws Error that starts with source for anything else and for
/// directories that contradict the local headers, overlap or leave the file.  Checksums are not verified.
class ZipArchive {
 public:
  /// `file` must outlive the archive.
  ZipArchive(std::span<const std::byte> file, std::string_view source);

  /// Sorted by name.
  const std::vector<ZipEntry>& entries() const { return entries_; }
  /// nullptr where there is none.
  const ZipEntry* find(std::string_view name) const;

 private:
  std::vector<ZipEntry> entries_;
};

}  // namespace mamba2
