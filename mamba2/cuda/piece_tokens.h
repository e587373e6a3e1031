#pragma once

#include <cstdint>

namespace mamba2::cuda {

/// How many tokens of a prompt go through the layers at a time.  At 8192 the scan and the products run at the rates of
/// a whole long prompt, and a 2.7b layer's buffers take 1.0 GB.  Fewer where that is more than an eighth of what memory
/// is free: so much the buffers may have, and the work space of ops, which is no larger, once more.
constexpr std::int64_t piece_tokens(std::int64_t bytes_per_token, std::int64_t free_bytes) {
  constexpr std::int64_t most = 8192, least = 1024, share = 8;
  std::int64_t tokens = most;
  while (tokens > least && bytes_per_token > free_bytes / share / tokens) tokens /= 2;
  return tokens;
}

}  // namespace mamba2::cuda
