// The state space dual scan of one head by chunks (Dao and Gu 2024, section 6), as three small matrix products a chunk.
//
//   y = exp(c_i) C S^T + (scores * exp(c_i - c_j) for j <= i) (dt x) + D x        c: running sum of dt A in the chunk
//   S = exp(c_last) S + sum_j exp(c_last - c_j) (dt_j x_j) B_j^T
//
// All are outer products along head_dim: registers hold a tile of tile_m rows by tile_v registers of head_dim, the
// right operand (the state turned to (state_size, head_dim), or dt x) is kept in panels of just that width in L1, the
// left one is broadcast from copies of B and C that a group's heads share.  The first two products share their sums.
// Decays are exponentials of differences that are never positive; c is summed in double and kept as two floats, so that
// a difference of large sums is as exact as its own size allows.
#include "mamba2/cpu/kernels/dot_tile.h"
#include "mamba2/cpu/kernels/math.h"
#include "mamba2/cpu/kernels/parts.h"
#include "mamba2/cpu/kernels/ssd_step.h"

namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

constexpr int tile_m = 6;
#if defined(__AVX512F__)
constexpr int tile_v = 4;
#else
constexpr int tile_v = 2;
#endif
constexpr std::int64_t panel = tile_v * lanes;  // elements of head_dim in a tile

/// What a head keeps while its chunks pass.
struct Scratch {
  std::int64_t panels, state_size, chunk;
  float* state;   // [panels][state_size][panel]
  float* input;   // [panels][chunk][panel]: dt x
  float* mixed;   // [chunk][padded(chunk)]: scores times decay, 0 after the diagonal
  float* sum_hi;  // c, [chunk]
  float* sum_lo;
  float* decay;  // exp(c)
  float* D;      // [panels * panel]

  explicit Scratch(const ScanTask& t)
      : panels((t.head_dim + panel - 1) / panel),
        state_size(t.state_size),
        chunk(t.chunk),
        state(t.scratch),
        input(state + panels * panel * state_size),
        mixed(input + panels * panel * chunk),
        sum_hi(mixed + chunk * padded(chunk)),
        sum_lo(sum_hi + padded(chunk)),
        decay(sum_lo + padded(chunk)),
        D(decay + padded(chunk)) {}
};

/// The chunk's C, (count, state_size), and its B in tiles.
MAMBA2_INLINE const float* packed_C(const ScanTask& t, std::int64_t first) {
  return t.packed + first * 2 * t.state_size;
}
MAMBA2_INLINE const float* packed_B(const ScanTask& t, std::int64_t first, std::int64_t count) {
  return packed_C(t, first) + count * t.state_size;
}

/// sum[m][v] += sum over k of a[m][k] b[k][v], b in a panel.
template <int M>
MAMBA2_INLINE void outer_tile(const float* a, std::int64_t row_stride, std::int64_t k_stride, const float* b,
                              std::int64_t k, Floats (&sum)[M][tile_v]) {
  for (std::int64_t i = 0; i < k; ++i) {
    Floats right[tile_v];
#pragma GCC unroll 8
    for (int v = 0; v < tile_v; ++v) right[v] = load(b + i * panel + v * lanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Floats left = broadcast(a[m * row_stride + i * k_stride]);
#pragma GCC unroll 8
      for (int v = 0; v < tile_v; ++v) sum[m][v] = fma(left, right[v], sum[m][v]);
    }
  }
}

/// Calls body.template operator()<rows>(first) for tiles of up to tile_m rows.
template <class Body>
MAMBA2_INLINE void for_row_tiles(std::int64_t rows, Body body) {
  std::int64_t first = 0;
  for (; first + tile_m <= rows; first += tile_m) body.template operator()<tile_m>(first);
  switch (rows - first) {
    case 5: body.template operator()<5>(first); break;
    case 4: body.template operator()<4>(first); break;
    case 3: body.template operator()<3>(first); break;
    case 2: body.template operator()<2>(first); break;
    case 1: body.template operator()<1>(first); break;
    default: break;
  }
}

template <StateForm form>
void turn_state_in(const ScanTask& t, const Scratch& s) {
  for (std::int64_t p = 0; p < s.panels * panel; ++p) {
    float* const to = s.state + p / panel * panel * s.state_size + p % panel;
    s.D[p] = p < t.head_dim ? t.D[p * t.D_step] : 0.0F;
    if (p >= t.head_dim) {
      for (std::int64_t n = 0; n < s.state_size; ++n) to[n * panel] = 0.0F;
      continue;
    }
    const auto* const from = state_row<form>(t, p);
    float part[lanes];
    for (std::int64_t n = 0; n < s.state_size; n += lanes) {
      const std::int64_t count = s.state_size - n < lanes ? s.state_size - n : lanes;
      store(part, count == lanes ? load_state(from + n) : load_state_some(from + n, count));
      for (std::int64_t i = 0; i < count; ++i) to[(n + i) * panel] = part[i];
    }
  }
}

template <StateForm form>
void turn_state_out(const ScanTask& t, const Scratch& s) {
  for (std::int64_t p = 0; p < t.head_dim; ++p) {
    const float* const from = s.state + p / panel * panel * s.state_size + p % panel;
    auto* const to = state_row<form>(t, p);
    std::uint32_t noise[noise_block];
    for (std::int64_t n = 0; n < s.state_size; n += lanes) {
      if (form == StateForm::bf16_stochastic && n % noise_block == 0)
        draw_noise(t, t.tokens - 1, p, n / noise_block, noise);
      const std::int64_t count = s.state_size - n < lanes ? s.state_size - n : lanes;
      float part[lanes] = {};
      for (std::int64_t i = 0; i < count; ++i) part[i] = from[(n + i) * panel];
      if (count == lanes)
        store_state<form>(to + n, load(part), noise + n % noise_block);
      else
        store_state_some<form>(to + n, load(part), noise + n % noise_block, count);
    }
  }
}

/// The running sums of one chunk and their exponentials.
void sum_decays(const ScanTask& t, const Scratch& s, std::int64_t first, std::int64_t count) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < count; ++i) {
    sum += static_cast<double>(t.dt[(first + i) * t.dt_stride]) * static_cast<double>(t.a);
    s.sum_hi[i] = static_cast<float>(sum);
    s.sum_lo[i] = static_cast<float>(sum - static_cast<double>(s.sum_hi[i]));
  }
  for (std::int64_t i = count; i < padded(count); ++i) s.sum_hi[i] = s.sum_lo[i] = 0.0F;
  for (std::int64_t i = 0; i < count; i += lanes) store(s.decay + i, exp(load(s.sum_hi + i) + load(s.sum_lo + i)));
}

/// One element of x's row, 0 past the head's end.
MAMBA2_INLINE Floats load_x(const ScanTask& t, const float* row, std::int64_t p) {
  if (p + lanes <= t.head_dim) return load(row + p);
  return p < t.head_dim ? load_some(row + p, t.head_dim - p) : Floats{};
}

void take_input(const ScanTask& t, const Scratch& s, std::int64_t first, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float* const row = t.x + (first + i) * t.x_stride;
    const float dt = t.dt[(first + i) * t.dt_stride];
    for (std::int64_t q = 0; q < s.panels; ++q)
      for (std::int64_t v = 0; v < panel; v += lanes)
        store(s.input + (q * s.chunk + i) * panel + v, load_x(t, row, q * panel + v) * dt);
  }
}

void mix(const ScanTask& t, const Scratch& s, std::int64_t first, std::int64_t count) {
  float lane_numbers[lanes];
  for (int i = 0; i < lanes; ++i) lane_numbers[i] = static_cast<float>(i);
  const Floats numbers = load(lane_numbers);
  for (std::int64_t i = 0; i < count; ++i) {
    const float* const scores = t.scores + (first + i) * t.chunk;
    float* const to = s.mixed + i * padded(s.chunk);
    for (std::int64_t j = 0; j <= i; j += lanes) {
      const Floats difference = (s.sum_hi[i] - load(s.sum_hi + j)) + (s.sum_lo[i] - load(s.sum_lo + j));
      const Floats mixed = load(scores + j) * exp(minimum(difference, broadcast(0.0F)));
      const Ints up_to_here = numbers <= broadcast(static_cast<float>(i - j));
      store(to + j, select(up_to_here, mixed, Floats{}));
    }
    // A tile of rows reads as far as its last row's diagonal.
    for (std::int64_t j = (i / lanes + 1) * lanes; j < i + tile_m && j < padded(s.chunk); ++j) to[j] = 0.0F;
  }
}

template <int M>
MAMBA2_INLINE void output_tile(const ScanTask& t, const Scratch& s, std::int64_t first, std::int64_t i,
                               std::int64_t q) {
  Floats sum[M][tile_v] = {};
  const float* const C = packed_C(t, first) + i * t.state_size;
  outer_tile<M>(C, t.state_size, 1, s.state + q * s.state_size * panel, s.state_size, sum);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < tile_v; ++v) sum[m][v] = sum[m][v] * s.decay[i + m];
  outer_tile<M>(s.mixed + i * padded(s.chunk), padded(s.chunk), 1, s.input + q * s.chunk * panel, i + M, sum);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    const float* const x = t.x + (first + i + m) * t.x_stride;
    float* const out = t.out + (first + i + m) * t.out_stride;
#pragma GCC unroll 8
    for (int v = 0; v < tile_v; ++v) {
      const std::int64_t p = q * panel + v * lanes;
      const Floats y = fma(load(s.D + p), load_x(t, x, p), sum[m][v]);
      if (p + lanes <= t.head_dim)
        store(out + p, y);
      else if (p < t.head_dim)
        store_some(out + p, y, t.head_dim - p);
    }
  }
}

template <int M>
MAMBA2_INLINE void state_tile(const ScanTask& t, const Scratch& s, std::int64_t first, std::int64_t count,
                              std::int64_t n, std::int64_t q) {
  float* const state = s.state + (q * s.state_size + n) * panel;
  const Floats keep = broadcast(s.decay[count - 1]);
  Floats sum[M][tile_v];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < tile_v; ++v) sum[m][v] = load(state + m * panel + v * lanes) * keep;
  outer_tile<M>(packed_B(t, first, count) + n * count, 1, M, s.input + q * s.chunk * panel, count, sum);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < tile_v; ++v) store(state + m * panel + v * lanes, sum[m][v]);
}

/// dt x times the decay from its token to the chunk's end.
void decay_input(const Scratch& s, std::int64_t count) {
  const float hi = s.sum_hi[count - 1], lo = s.sum_lo[count - 1];
  for (std::int64_t i = 0; i < count; i += lanes) {
    const Floats difference = (hi - load(s.sum_hi + i)) + (lo - load(s.sum_lo + i));
    float factor[lanes];
    store(factor, exp(minimum(difference, broadcast(0.0F))));
    for (std::int64_t j = 0; j < lanes && i + j < count; ++j)
      for (std::int64_t q = 0; q < s.panels; ++q)
        for (std::int64_t v = 0; v < panel; v += lanes) {
          float* const input = s.input + (q * s.chunk + i + j) * panel + v;
          store(input, load(input) * factor[j]);
        }
  }
}

void ssd_chunks(const ScanTask& t) {
  const Scratch s(t);
  with_state_form(t.state_form, [&]<StateForm form>() { turn_state_in<form>(t, s); });
  for (std::int64_t first = 0; first < t.tokens; first += t.chunk) {
    const std::int64_t count = t.tokens - first < t.chunk ? t.tokens - first : t.chunk;
    sum_decays(t, s, first, count);
    take_input(t, s, first, count);
    mix(t, s, first, count);
    for (std::int64_t q = 0; q < s.panels; ++q)
      for_row_tiles(count, [&]<int M>(std::int64_t i) { output_tile<M>(t, s, first, i, q); });
    decay_input(s, count);
    for_row_tiles(t.state_size, [&]<int M>(std::int64_t n) {
      for (std::int64_t q = 0; q < s.panels; ++q) state_tile<M>(t, s, first, count, n, q);
    });
  }
  with_state_form(t.state_form, [&]<StateForm form>() { turn_state_out<form>(t, s); });
}

/// C row after row, then B in tiles of the rows of the state that state_tile takes at a time, token after token: where
/// they come from, rows lie so far apart that those of a chunk fall on a few sets of the cache.
void pack(const ScoresTask& t) {
  for (std::int64_t i = 0; i < t.tokens; ++i)
    __builtin_memcpy(t.packed + i * t.state_size, t.C + i * t.C_stride,
                     static_cast<unsigned long>(t.state_size) * sizeof(float));
  float* const tiles = t.packed + t.tokens * t.state_size;
  for_row_tiles(t.state_size, [&]<int M>(std::int64_t n) {
    for (std::int64_t i = 0; i < t.tokens; ++i)
      for (int m = 0; m < M; ++m) tiles[n * t.tokens + i * M + m] = t.B[i * t.B_stride + n + m];
  });
}

/// C B^T, tile by tile up to the diagonal.
void ssd_scores(const ScoresTask& t) {
  pack(t);
  for (std::int64_t i = 0; i < t.tokens; ++i)
    for (std::int64_t j = 0; j < t.scores_stride; ++j) t.scores[i * t.scores_stride + j] = 0.0F;
  for (std::int64_t i = 0; i < t.tokens; i += tile_rows) {
    const std::int64_t rows = t.tokens - i < tile_rows ? t.tokens - i : tile_rows;
    const float* const C = t.C + i * t.C_stride;
    float* const to = t.scores + i * t.scores_stride;
    std::int64_t j = 0;
    for (; j < i + rows && j + tile_columns <= t.tokens; j += tile_columns)
      dot_rows<float>(C, t.C_stride, rows, t.B + j * t.B_stride, t.B_stride, t.state_size, to + j, t.scores_stride);
    for (; j < i + rows; ++j)
      dot_row<float>(C, t.C_stride, rows, t.B + j * t.B_stride, t.state_size, to + j, t.scores_stride);
  }
}

}  // namespace

void add_ssd(Kernels& kernels) {
  kernels.ssd_step = ssd_step;
  kernels.ssd_chunks = ssd_chunks;
  kernels.ssd_scores = ssd_scores;
}

}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
