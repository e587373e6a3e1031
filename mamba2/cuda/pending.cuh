// Where the inputs that a state does not hold yet lie, and which they are.
#pragma once

#include "mamba2/cuda/pending_step.h"

namespace mamba2::cuda {

/// The token at position u of a slot lies at u % pending_room.  A head's state takes what is pending after the tokens
/// at which position + 1 + head + layer is a multiple of the room, so that each step writes an eighth of the heads.
struct PendingTokens {
  int position, count;  // the next token's, and how many just before it are pending
  bool fills_room;      // the next token is the last that there is room for

  /// Of the head of which most are pending.
  __device__ __forceinline__ PendingTokens(int next_position, int since)
      : position(next_position), count(min(pending_room - 1, next_position - since)), fills_room(false) {}
  __device__ __forceinline__ PendingTokens(int next_position, int since, int head, int layer)
      : position(next_position) {
    const unsigned turn = static_cast<unsigned>(next_position) + static_cast<unsigned>(head + layer);
    const int since_turn = static_cast<int>(turn % pending_room);
    count = min(since_turn, next_position - since);
    fills_room = since_turn == pending_room - 1;
  }
  /// How many tokens came after the one at a place of the ring, if it is pending.
  __device__ __forceinline__ int later_than(int place) const {
    return static_cast<int>(static_cast<unsigned>(position - 1 - place) % pending_room);
  }
  __device__ __forceinline__ bool pending(int place) const { return later_than(place) < count; }
  __device__ __forceinline__ int place_of_next() const {
    return static_cast<int>(static_cast<unsigned>(position) % pending_room);
  }
};

}  // namespace mamba2::cuda
