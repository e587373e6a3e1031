#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace mamba2 {

/// Whether the Hub names a file by such a hash: 64 hexadecimal digits (sha256 of a file in LFS or Xet storage) or 40
/// (sha1 of a git blob).
bool is_file_hash(std::string_view text);

/// The hash that names a file on the Hub, computed over bytes as they arrive.
class Digest {
 public:
  /// Of the kind of expected, an is_file_hash(); size is the whole file's, which git puts in front of what it hashes.
  Digest(std::string_view expected, std::uint64_t size);

  void update(std::span<const char> bytes);
  /// In lower-case hexadecimal; the object is used up.
  std::string finish();

 private:
  struct Free {
    void operator()(void* context) const;
  };
  std::unique_ptr<void, Free> context_;
};

}  // namespace mamba2
