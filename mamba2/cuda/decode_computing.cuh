// The warps of decode_layers that compute: how they share out a layer, what they keep from one to the next, and how
// they take x.
#pragma once

#include "mamba2/cuda/decode_block.cuh"
#include "mamba2/cuda/decode_exchange.cuh"
#include "mamba2/cuda/element.cuh"

namespace mamba2::cuda {

constexpr int set_rows = 8;  // of W, that one instruction multiplies; and of parts of x, in half of its operand
constexpr int tile_sets = decode_tile_rows / set_rows;

/// Sixteen columns of a row of each set, as pairs: what four instructions take one after the other.
using Pieces = unsigned[tile_sets][8];

/// Which product, and x of which norm.
enum Phase : int { in_phase, out_phase };

/// Parts: sets of parts of x, eight each.
template <class S, int N, int Parts>
class Computing {
 public:
  __device__ Computing(const DecodeArguments& arguments, const BlockMemory& memory, unsigned before)
      : op_(arguments.op),
        memory_(memory),
        shared_(memory.shared()),
        share_(shared_.share),
        exchange_(arguments.exchange),
        before_(before) {}

  __device__ __forceinline__ void run();

 private:
  __device__ __forceinline__ void start();
  __device__ __forceinline__ void multiply(int l, int phase);
  __device__ __forceinline__ void mix(int l);
  __device__ __forceinline__ float take_x(int l, int phase);
  __device__ __forceinline__ void store_parts(int row, int place, const float (&values)[4]) const;
  __device__ __forceinline__ void next_weights(Pieces& w, const int (&rows)[tile_sets], int bytes, bool exists,
                                               int count);
  __device__ __forceinline__ float scale_of(int phase, int row) const;
  __device__ __forceinline__ void finish_in(InProjRow& row, int s, float value, int l);
  __device__ void copy_gains(float* to, const float* from, int width) const;

  __device__ static int tid() { return static_cast<int>(threadIdx.x); }
  __device__ static int warp() { return tid() / 32; }
  __device__ static int lane() { return tid() % 32; }
  __device__ int width(int phase) const { return phase == in_phase ? op_.shape.hidden : op_.shape.inner(); }
  /// Warps that share out what becomes of a sequence's products of in_proj.
  __device__ int ways() const { return op_.shape.rows * in_row_ways <= decode_warps ? in_row_ways : 1; }
  __device__ float* gains(int phase) const { return memory_.gains() + (phase == in_phase ? 0 : op_.shape.hidden); }
  /// Of a layer's exchanges; its first x has that of the layer before, which is no number of an earlier call.
  __device__ unsigned number(int l) const { return before_ + static_cast<unsigned>(l + 2); }
  __device__ std::uint64_t* words(int at, int row, int width) const {
    return op_.exchange + at + row * exchange_stride(width);
  }
  /// To all.
  __device__ static void send(std::uint64_t* words, int index, float value, unsigned number) {
    cuda::send(words + exchange_place(index), value, number);
  }
  __device__ std::int64_t conv_row(int s) const { return shared_.slots[s] * op_.shape.conv_dim(); }
  __device__ static void meet() { named_barrier(consumer_barrier, consumer_threads); }

  const DecodeLayers& op_;
  const BlockMemory& memory_;
  BlockShared& shared_;
  const DecodeShare& share_;
  const DecodeExchange& exchange_;
  const unsigned before_;  // exchanges of earlier calls
  RingCursor ring_;
  int stage_ = 0, buffer_ = 0;
  float residual_ = 0;  // of the output that this lane, and the sequence that this warp ends up with
};

/// Sends the residual of the block's outputs.  Words of rows that this call has no sequence for get a number that is
/// not awaited before all numbers have passed.
template <class S, int N, int Parts>
__device__ __forceinline__ void Computing<S, N, Parts>::start() {
  const DecodeShape& shape = op_.shape;
  auto clear = [&](int at, int width, const Part& part) {
#pragma unroll 1
    for (int r = shape.rows; r < decode_most_rows; ++r)
      for (int i = tid(); i < part.count; i += consumer_threads)
        send(words(at, r, width), part.first + i, 0.0F, before_);
  };
  clear(exchange_.hidden_at, shape.hidden, share_.outputs);
  clear(exchange_.shared_at, shape.shared_columns(), share_.shared);
  clear(exchange_.y_at, shape.inner(), share_.channels);
  if (lane() < share_.outputs.count && warp() < shape.rows) {
    const int output = share_.outputs.first + lane();
    residual_ = static_cast<const float*>(op_.hidden.data)[warp() * op_.hidden.stride + output];
    send(words(exchange_.hidden_at, warp(), shape.hidden), output, residual_, number(-1));
  }
  copy_gains(gains(in_phase), memory_.layers()[0].norm_weight, shape.hidden);
  copy_gains(gains(out_phase), memory_.layers()[0].gated_norm_weight, shape.inner());
}

/// A norm's weight, each thread what it needs itself: a copy group of its own.
template <class S, int N, int Parts>
__device__ void Computing<S, N, Parts>::copy_gains(float* to, const float* from, int width) const {
#pragma unroll 1
  for (int place = tid(); place < width / 4; place += consumer_threads) copy_vector(to + 4 * place, from + 4 * place);
  commit_copies();
}

template <class S, int N, int Parts>
__device__ __forceinline__ void Computing<S, N, Parts>::store_parts(int row, int place,
                                                                    const float (&values)[4]) const {
  unsigned low[decode_x_parts], high[decode_x_parts];
  three_parts(values[0], values[1], low);
  three_parts(values[2], values[3], high);
#pragma unroll
  for (int p = 0; p < decode_x_parts; ++p)
    reinterpret_cast<uint2*>(memory_.part(row * decode_x_parts + p))[place] = {low[p], high[p]};
}

/// Receives all rows of x, scales them by the norm's weight and leaves them as parts.  A thread has the fours that it
/// has in linear_streamed.  Its squares of the last row are returned, the others' sums over the warp are left.
template <class S, int N, int Parts>
__device__ __forceinline__ float Computing<S, N, Parts>::take_x(int l, int phase) {
  constexpr int at_once = 2;
  const int vectors = width(phase) / 4, each = (vectors + consumer_threads - 1) / consumer_threads;
  const int last_row = op_.shape.rows - 1, stride = exchange_stride(width(phase));
  const std::uint64_t* const from = op_.exchange + (phase == in_phase ? exchange_.hidden_at : exchange_.y_at);
  const unsigned expected = number(phase == in_phase ? l - 1 : l);
  const float4* const weights = reinterpret_cast<const float4*>(gains(phase));
  // Places of neighbouring threads' fours follow each other; those of a thread's next four lie four words a thread on.
  const int first_place = exchange_place(4 * tid());
  int row = 0, step = 0;
  float squares = 0;
#pragma unroll 1
  for (int left = each * op_.shape.rows; left > 0; left -= at_once) {
    int rows[at_once], places[at_once], word[at_once];
    bool ends[at_once];  // a row
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      rows[i] = row;
      places[i] = i < left ? tid() + step * consumer_threads : vectors;
      word[i] = row * stride + first_place + step * 4 * consumer_threads;
      ends[i] = ++step == each;
      if (ends[i]) step = 0, ++row;
    }
    Received<4> got[at_once];
    bool all;
    do {
      all = true;
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        if (places[i] >= vectors) continue;
        got[i].look(from + word[i], expected);
        all = all && got[i].all;
      }
    } while (!all);
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      if (i >= left) break;
      if (places[i] < vectors) {
        const float(&v)[4] = got[i].values;
        squares = fmaf(v[0], v[0], fmaf(v[1], v[1], fmaf(v[2], v[2], fmaf(v[3], v[3], squares))));
        const float4 gain = weights[places[i]];
        store_parts(rows[i], places[i], {v[0] * gain.x, v[1] * gain.y, v[2] * gain.z, v[3] * gain.w});
      }
      if (!ends[i] || rows[i] == last_row) continue;
      squares = warp_sum(squares);
      if (lane() == 0) shared_.squares[phase][warp()][rows[i]] = squares;
      squares = 0;
    }
  }
  return squares;
}

template <class S, int N, int Parts>
__device__ __forceinline__ float Computing<S, N, Parts>::scale_of(int phase, int row) const {
  float sum = 0;
#pragma unroll
  for (int w = 0; w < decode_warps; ++w) sum += shared_.squares[phase][w][row];
  return rsqrtf(sum / static_cast<float>(width(phase)) + (phase == in_phase ? op_.norm_eps : op_.gated_norm_eps));
}

/// Sixteen columns of a row, in the order of linear_streamed: a lane's second eight first where its first piece is
/// that.
__device__ __forceinline__ void load_pieces(unsigned (&to)[8], const std::byte* base, int at) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint4 four = load_vector(base + (at ^ (half * vector_bytes)));
    to[4 * half] = four.x;
    to[4 * half + 1] = four.y;
    to[4 * half + 2] = four.z;
    to[4 * half + 3] = four.w;
  }
}

}  // namespace mamba2::cuda
