#pragma once

#include <cstdint>
#include <functional>

namespace mamba2 {

/// Processors that this process may run on; at least 1.
int available_processors();

/// Calls work(begin, end) for pieces that make up [0, count), on `threads` threads with the caller's among them (0: one
/// a processor that this process may use), and returns when all is done.  Throws the first error that a piece threw.
/// Threads are made for the call: for work that takes milliseconds and more.
void for_pieces(std::int64_t count, int threads, const std::function<void(std::int64_t, std::int64_t)>& work);

}  // namespace mamba2
