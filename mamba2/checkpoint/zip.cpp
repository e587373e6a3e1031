#include "mamba2/checkpoint/zip.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "mamba2/base/error.h"
#include "mamba2/checkpoint/little_endian.h"

namespace mamba2 {
namespace {

constexpr std::uint32_t local_signature = 0x04034b50, central_signature = 0x02014b50, end_signature = 0x06054b50,
                        end64_signature = 0x06064b50, locator64_signature = 0x07064b50;
constexpr std::size_t local_bytes = 30, central_bytes = 46, end_bytes = 22, end64_bytes = 56, locator64_bytes = 20;
constexpr std::size_t max_comment_bytes = 0xFFFF;
/// In a 16- or 32-bit field: the value stands in a zip64 record.
constexpr std::uint64_t in_zip64_16 = 0xFFFF, in_zip64_32 = 0xFFFFFFFF;
constexpr unsigned encrypted_flag = 1, data_descriptor_flag = 8, masked_flag = 1U << 13;
constexpr std::uint16_t zip64_extra = 1;
/// PyTorch writes one entry a storage and six more.
constexpr std::uint64_t max_entries = 1U << 17;

struct Directory {
  std::uint64_t entries = 0, size = 0, offset = 0;
  bool operator==(const Directory&) const = default;
};

struct CentralEntry {
  std::string_view name;
  std::uint64_t size = 0, local_offset = 0;
  std::size_t length = 0;  // of this record
};

class Reader {
 public:
  Reader(std::span<const std::byte> file, std::string_view source) : file_(file), source_(source) {}

  std::vector<ZipEntry> entries() const {
    const Directory directory = find_directory();
    std::vector<std::pair<std::uint64_t, ZipEntry>> by_offset;
    by_offset.reserve(static_cast<std::size_t>(directory.entries));
    std::uint64_t at = directory.offset;
    const std::uint64_t end = directory.offset + directory.size;
    for (std::uint64_t i = 0; i < directory.entries; ++i) {
      const CentralEntry central = central_entry(at, end);
      by_offset.emplace_back(central.local_offset, located(central, directory.offset));
      at += central.length;
    }
    require(at == end, "{}: zip directory has {} bytes after its last entry", source_, end - at);
    return without_overlap(std::move(by_offset));
  }

 private:
  template <class Unsigned>
  Unsigned load(std::uint64_t offset) const {
    return load_little_endian<Unsigned>(file_, static_cast<std::size_t>(offset));
  }

  bool has_signature(std::uint64_t offset, std::uint32_t signature) const {
    return load<std::uint32_t>(offset) == signature;
  }

  std::string_view text(std::uint64_t offset, std::size_t length) const {
    return {reinterpret_cast<const char*>(file_.data()) + offset, length};
  }

  /// The end-of-directory record: the last signature whose comment reaches to the file's end.
  std::size_t find_end_record() const {
    for (std::size_t comment = 0; comment <= max_comment_bytes && comment + end_bytes <= file_.size(); ++comment) {
      const std::size_t at = file_.size() - end_bytes - comment;
      if (has_signature(at, end_signature) && load<std::uint16_t>(at + 20) == comment) return at;
    }
    fail("{}: zip archive has no directory at its end; is the file cut off?", source_);
  }

  Directory find_directory() const {
    const std::size_t end = find_end_record();
    const auto disk = load<std::uint16_t>(end + 4), first_disk = load<std::uint16_t>(end + 6);
    const auto on_this_disk = load<std::uint16_t>(end + 8), total = load<std::uint16_t>(end + 10);
    require(on_this_disk == total && disk == first_disk && (disk == 0 || disk == in_zip64_16),
            "{}: zip archive is spread over several files", source_);
    Directory directory{total, load<std::uint32_t>(end + 12), load<std::uint32_t>(end + 16)};
    std::size_t limit = end;
    if (end >= locator64_bytes && has_signature(end - locator64_bytes, locator64_signature))
      limit = read_zip64(end - locator64_bytes, directory);
    require(directory.offset <= limit && directory.size == limit - directory.offset,
            "{}: zip directory should lie in bytes [{}, {}), its entry says offset {}, size {}", source_,
            directory.offset, limit, directory.offset, directory.size);
    require(directory.entries <= directory.size / central_bytes && directory.entries <= max_entries,
            "{}: zip directory of {} bytes claims {} entries", source_, directory.size, directory.entries);
    return directory;
  }

  /// Replaces the directory by the zip64 record's, where both must agree unless a field is too small for it.  Returns
  /// the record's offset.
  std::size_t read_zip64(std::size_t locator, Directory& directory) const {
    const auto at = load<std::uint64_t>(locator + 8);
    require(locator >= end64_bytes && at <= locator - end64_bytes && has_signature(at, end64_signature),
            "{}: zip64 directory record is not at byte {} as its locator says", source_, at);
    require(load<std::uint64_t>(at + 4) == locator - at - 12, "{}: zip64 directory record has a wrong size", source_);
    require(load<std::uint32_t>(at + 16) == 0 && load<std::uint32_t>(at + 20) == 0 &&
                load<std::uint64_t>(at + 24) == load<std::uint64_t>(at + 32),
            "{}: zip archive is spread over several files", source_);
    const Directory large{load<std::uint64_t>(at + 32), load<std::uint64_t>(at + 40), load<std::uint64_t>(at + 48)};
    const bool agree = (directory.entries == large.entries || directory.entries == in_zip64_16) &&
                       (directory.size == large.size || directory.size == in_zip64_32) &&
                       (directory.offset == large.offset || directory.offset == in_zip64_32);
    require(agree, "{}: zip and zip64 directory records contradict each other", source_);
    directory = large;
    return static_cast<std::size_t>(at);
  }

  CentralEntry central_entry(std::uint64_t at, std::uint64_t end) const {
    require(end - at >= central_bytes && has_signature(at, central_signature),
            "{}: zip directory has no entry at byte {}", source_, at);
    const std::size_t name_length = load<std::uint16_t>(at + 28), extra_length = load<std::uint16_t>(at + 30),
                      comment_length = load<std::uint16_t>(at + 32);
    CentralEntry entry;
    entry.length = central_bytes + name_length + extra_length + comment_length;
    require(entry.length <= end - at, "{}: zip directory entry at byte {} leaves the directory", source_, at);
    entry.name = text(at + central_bytes, name_length);
    const unsigned flags = load<std::uint16_t>(at + 8), method = load<std::uint16_t>(at + 10);
    require((flags & (encrypted_flag | masked_flag)) == 0, "{}: zip entry '{}' is encrypted", source_,
            printable(entry.name));
    require(method == 0, "{}: zip entry '{}' is compressed (method {}), expected stored entries as torch.save writes",
            source_, printable(entry.name), method);
    std::uint64_t packed = load<std::uint32_t>(at + 20);
    entry.size = load<std::uint32_t>(at + 24);
    entry.local_offset = load<std::uint32_t>(at + 42);
    take_zip64_fields(at + central_bytes + name_length, extra_length, entry, packed);
    require(packed == entry.size, "{}: zip entry '{}' is stored in {} bytes, yet {} bytes long", source_,
            printable(entry.name), packed, entry.size);
    return entry;
  }

  /// Fields that hold the 32-bit maximum stand in the zip64 extra field, in this order.
  void take_zip64_fields(std::uint64_t extra, std::size_t length, CentralEntry& entry, std::uint64_t& packed) const {
    const std::uint64_t end = extra + length;
    for (std::uint64_t size = 0; end - extra >= 4; extra += size) {
      size = load<std::uint16_t>(extra + 2);
      const auto id = load<std::uint16_t>(extra);
      extra += 4;
      if (size > end - extra) break;
      if (id != zip64_extra) continue;
      std::uint64_t at = extra;
      for (std::uint64_t* field : {&entry.size, &packed, &entry.local_offset}) {
        if (*field != in_zip64_32) continue;
        require(at + 8 <= extra + size, "{}: zip entry '{}' has a zip64 field of {} bytes, too short for it", source_,
                printable(entry.name), size);
        *field = load<std::uint64_t>(at);
        at += 8;
      }
      return;
    }
    require(entry.size != in_zip64_32 && packed != in_zip64_32 && entry.local_offset != in_zip64_32,
            "{}: zip entry '{}' lacks its zip64 field", source_, printable(entry.name));
  }

  /// Where the entry's bytes lie, by its local header; all before `limit`.
  ZipEntry located(const CentralEntry& central, std::uint64_t limit) const {
    const std::uint64_t at = central.local_offset;
    require(at <= limit && limit - at >= local_bytes && has_signature(at, local_signature),
            "{}: zip entry '{}' has no local header at byte {}", source_, printable(central.name), at);
    const unsigned flags = load<std::uint16_t>(at + 6), method = load<std::uint16_t>(at + 8);
    const std::uint64_t size = load<std::uint32_t>(at + 22), packed = load<std::uint32_t>(at + 18);
    const std::size_t name_length = load<std::uint16_t>(at + 26), extra_length = load<std::uint16_t>(at + 28);
    const std::uint64_t header = local_bytes + name_length + extra_length;
    require(header <= limit - at && central.size <= limit - at - header,
            "{}: zip entry '{}' of {} bytes at byte {} leaves the file", source_, printable(central.name), central.size,
            at);
    const auto fits = [&](std::uint64_t value) {
      return value == central.size || value == in_zip64_32 || (value == 0 && (flags & data_descriptor_flag) != 0);
    };
    require(method == 0 && (flags & encrypted_flag) == 0 && fits(size) && fits(packed) &&
                text(at + local_bytes, name_length) == central.name,
            "{}: zip entry '{}' contradicts its local header at byte {}", source_, printable(central.name), at);
    return {central.name, static_cast<std::size_t>(at + header), static_cast<std::size_t>(central.size)};
  }

  /// By name; each name once, no two ranges overlapping.
  std::vector<ZipEntry> without_overlap(std::vector<std::pair<std::uint64_t, ZipEntry>> by_offset) const {
    std::sort(by_offset.begin(), by_offset.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::uint64_t end = 0;
    std::vector<ZipEntry> sorted;
    sorted.reserve(by_offset.size());
    for (const auto& [offset, entry] : by_offset) {
      require(offset >= end, "{}: zip entry '{}' at byte {} overlaps another", source_, printable(entry.name), offset);
      end = entry.begin + entry.size;
      sorted.push_back(entry);
    }
    std::sort(sorted.begin(), sorted.end(), [](const ZipEntry& a, const ZipEntry& b) { return a.name < b.name; });
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end(),
                                          [](const ZipEntry& a, const ZipEntry& b) { return a.name == b.name; });
    require(twice == sorted.end(), "{}: zip entry '{}' appears twice", source_,
            twice == sorted.end() ? std::string() : printable(twice->name));
    return sorted;
  }

  std::span<const std::byte> file_;
  std::string_view source_;
};

}  // namespace

ZipArchive::ZipArchive(std::span<const std::byte> file, std::string_view source)
    : entries_(Reader(file, source).entries()) {}

const ZipEntry* ZipArchive::find(std::string_view name) const {
  const auto found = std::lower_bound(entries_.begin(), entries_.end(), name,
                                      [](const ZipEntry& entry, std::string_view key) { return entry.name < key; });
  return found == entries_.end() || found->name != name ? nullptr : &*found;
}

}  // namespace mamba2
