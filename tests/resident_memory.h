#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace mamba2::test {

/// Bytes of files that this process has in memory.
inline std::int64_t resident_file_bytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word && word != "RssFile:") continue;
  std::int64_t kilobytes = 0;
  status >> kilobytes;
  return kilobytes * 1024;
}

}  // namespace mamba2::test
