// Matrix products with quantised weights, for one token and for thousands.
//
// Rows of x are made bytes first, with a scale for each block of the weights' dtype.  Then each panel of 16 rows of the
// weights (mamba2/cpu/quantized_layout.h) passes a tile of rows of x: a register holds four columns of as many rows as
// it has lanes, so products of bytes add up in integers, exactly, until a block ends; the block's sums become f32, take
// the scales of both sides and are added in the order of the blocks.  That order is the same in every tile shape, so
// an element's bits depend on its row of x and its row of w alone.
//
// Long rows are cut where a panel's part would no longer stay in L1 while the rows of x pass; the sums so far wait in
// scratch.
#include <type_traits>
#include <utility>

#include "mamba2/cpu/kernels/quantized_formats.h"
#include "mamba2/cpu/quantized_kernels.h"

namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

constexpr int vectors = panel_rows / lanes;  // of a panel
// Rows of x in the largest tile: as many as leave the sums, a register of weights and one of x in registers.
#if defined(__AVX512F__)
constexpr int most_tile_rows = 8;
#elif defined(__aarch64__)
constexpr int most_tile_rows = 2;
#else
constexpr int most_tile_rows = 4;
#endif
constexpr std::int64_t columns_in_a_part = 1024;  // 16 KiB of bytes

/// body(0), ..., body(count - 1), unrolled, each argument a constant.
template <int count, class Body>
MAMBA2_INLINE void unrolled(Body&& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, i>{}), ...);
  }
  (std::make_integer_sequence<int, count>{});
}

/// A panel's part of the columns, from a block on; `ahead` as in QuantizedLinearTask.
struct Part {
  const std::byte* panel;
  std::int64_t block, blocks, ahead;
  // What the next panel's part is read from: each block fetches so many lines of it to L2.
  const std::byte* next = nullptr;
  std::int64_t next_lines = 0;
};

constexpr std::int64_t line = 64;

/// What blocks take in a panel.
template <class F>
constexpr std::int64_t bytes_of(std::int64_t blocks) {
  constexpr QuantizedLayout layout{F::elements, F::halves, true, F::quads_in_block, false, F::extras};
  return panel_bytes(layout, blocks);
}

/// A group's share of a block's cache lines, `ahead` bytes further on.
template <class F, int group>
MAMBA2_INLINE void fetch_group(const std::byte* quads, std::int64_t ahead) {
  constexpr int block = (F::halves * 2 + F::quads_in_block * 4) * panel_rows;
  constexpr int lines = (block + line * F::groups - 1) / (line * F::groups);
  if (ahead == 0) return;
#pragma GCC unroll 16
  for (int i = 0; i < lines; ++i) __builtin_prefetch(quads + ahead + (group * lines + i) * line);
}

/// Rows of x as quantize_rows wrote them.
struct QuantizedRows {
  const std::byte* data;
  std::int64_t stride, k;

  const std::byte* bytes(std::int64_t row, std::int64_t column) const { return data + row * stride + column; }
  float scale(std::int64_t row, std::int64_t block) const {
    return load_unaligned<float>(data + row * stride + k + block * 4);
  }
  template <class F>
  const std::int32_t* extras(std::int64_t row, std::int64_t block) const {
    return reinterpret_cast<const std::int32_t*>(data + row * stride + k + k / F::elements * 4) + block * F::extras;
  }
};

MAMBA2_INLINE Floats f16_row(const std::byte* halves) {
  return load_wide(reinterpret_cast<const F16*>(halves));
}

/// total[m][v] += products of one group of columns, scaled.
template <class F, int group, int M>
MAMBA2_INLINE void add_group(const QuantizedRows& x, std::int64_t column, const std::byte* quads,
                             const typename F::Scales (&scales)[vectors], Ints (&total)[M][vectors]) {
  constexpr int fitting = sums_in_16_bits ? 32767 / (2 * F::largest * 127) : F::steps;
  constexpr int steps = fitting >= F::steps ? F::steps : fitting >= 4 ? 4 : 2;
  unrolled<F::steps / steps>([&](auto run) __attribute__((always_inline)) {
    GroupSum sum[M][vectors];
    unrolled<steps>([&](auto i) __attribute__((always_inline)) {
      constexpr int step = run * steps + i;
      Unsigned w[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) w[v] = F::template quads<group, step>(quads + v * lanes * 4);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const Ints four = broadcast_int(load_unaligned<std::int32_t>(x.bytes(m, column + 4 * step)));
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[m][v].add(w[v], four);
      }
    });
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      if constexpr (F::groups == 1) {
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) total[m][v] += sum[m][v].plain();
      } else {
        const Ints scale = F::template scale<group>(scales[v]);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) total[m][v] += sum[m][v].scaled(scale);
      }
    }
  });
}

/// The same of q8_0 where bytes are multiplied signed.
template <int M>
MAMBA2_INLINE void add_signed_group(const QuantizedRows& x, std::int64_t column, const std::byte* quads,
                                    Ints (&total)[M][vectors]) {
#pragma GCC unroll 8
  for (int step = 0; step < 8; ++step) {
    Unsigned w[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) w[v] = quad(quads + v * lanes * 4, step);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Ints four = broadcast_int(load_unaligned<std::int32_t>(x.bytes(m, column + 4 * step)));
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) total[m][v] = add_signed(total[m][v], w[v], four);
    }
  }
}

/// What the sum of products starts from: what the weights' bytes have too much.
template <class F>
MAMBA2_INLINE Ints correction(const typename F::Scales& scales, const std::int32_t* extras) {
  if constexpr (F::offset == 0)
    return Ints{};
  else if constexpr (F::groups == 1)
    return broadcast_int(-F::offset * extras[0]);
  else
    return F::scaled_sums(scales, extras) * -F::offset;
}

/// sums[m][row] += the products of M rows of x and the panel's rows over the columns of a part.
template <class F, int M>
__attribute__((noinline)) void multiply_tile(const Part& part, const QuantizedRows& x, float* sums) {
  Floats sum[M][vectors];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[m][v] = load(sums + m * panel_rows + v * lanes);
  for (std::int64_t block = part.block; block < part.block + part.blocks; ++block) {
    const std::byte* const halves = part.panel + halves_offset(F::halves, F::quads_in_block, block);
    const std::byte* const quads = part.panel + quads_offset(F::halves, F::quads_in_block, block);
    for (std::int64_t i = 0; i < part.next_lines; ++i)
      __builtin_prefetch(part.next + ((block - part.block) * part.next_lines + i) * line, 0, 2);
    typename F::Scales scales[vectors];
    Ints total[M][vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      scales[v] = F::scales(quads + v * lanes * 4);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) total[m][v] = correction<F>(scales[v], x.extras<F>(m, block));
    }
    if constexpr (F::is_signed) {
      fetch_group<F, 0>(quads, part.ahead);
      add_signed_group(x, block * F::elements, quads, total);
    } else {
      unrolled<F::groups>([&](auto group) __attribute__((always_inline)) {
        fetch_group<F, group>(quads, part.ahead);
        add_group<F, group>(x, block * F::elements + group * F::steps * 4, quads, scales, total);
      });
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      const Floats d = f16_row(halves + v * lanes * 2);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const float x_scale = x.scale(m, block);
        sum[m][v] = fma(d * broadcast(x_scale), __builtin_convertvector(total[m][v], Floats), sum[m][v]);
        if constexpr (F::has_min) {
          const Floats min = f16_row(halves + panel_rows * 2 + v * lanes * 2) * broadcast(x_scale);
          const std::int32_t* const extras = x.extras<F>(m, block);
          if constexpr (F::groups == 1)
            sum[m][v] = fma(min, broadcast(static_cast<float>(extras[0])), sum[m][v]);
          else
            sum[m][v] = fma(-min, __builtin_convertvector(F::mins(scales[v], extras), Floats), sum[m][v]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store(sums + m * panel_rows + v * lanes, sum[m][v]);
}

/// All rows of x against a part of a panel.  The first tile fetches for all what lies `ahead`; where nothing does and
/// there are several tiles, these fetch the next panel's part among them, which would be waited for otherwise.
template <class F>
void multiply_part(Part part, QuantizedRows x, std::int64_t rows, float* sums) {
  const std::int64_t bytes = bytes_of<F>(part.blocks), passes = rows / most_tile_rows;
  if (part.next != nullptr && passes > 1) part.next_lines = bytes / (passes * part.blocks * line) + 1;
  std::int64_t to_fetch = bytes;
  auto tiles = [&](auto tile_rows) __attribute__((always_inline)) {
    for (; rows >= tile_rows; rows -= tile_rows) {
      multiply_tile<F, tile_rows>(part, x, sums);
      part.ahead = 0;
      if (part.next_lines > 0) {
        const std::int64_t fetched = part.blocks * part.next_lines * line;
        part.next += fetched;
        to_fetch -= fetched;
        if (to_fetch <= 0) part.next_lines = 0;
      }
      x.data += tile_rows * x.stride;
      sums += tile_rows * panel_rows;
    }
  };
  if constexpr (most_tile_rows >= 8) tiles(std::integral_constant<int, 8>{});
  if constexpr (most_tile_rows >= 4) tiles(std::integral_constant<int, 4>{});
  tiles(std::integral_constant<int, 2>{});
  tiles(std::integral_constant<int, 1>{});
}

/// out from the sums of a panel.
void finish(const QuantizedLinearTask& t) {
  for (std::int64_t m = 0; m < t.m; ++m) {
    const float* const sums = t.scratch + m * panel_rows;
    const float* const add = t.add == nullptr ? nullptr : t.add + m * t.add_stride;
    float* const out = t.out + m * t.out_stride;
    for (std::int64_t i = 0; i < t.n; i += lanes) {
      const std::int64_t count = t.n - i;
      auto read = [count](const float* from) __attribute__((always_inline)) {
        return count >= lanes ? load(from) : load_some(from, count);
      };
      Floats value = load(sums + i);
      if (t.bias != nullptr) value = value + read(t.bias + i);
      if (add != nullptr) value = value + read(add + i);
      if (count >= lanes)
        store(out + i, value);
      else
        store_some(out + i, value, count);
    }
  }
}

template <class F>
void quantized_linear(const QuantizedLinearTask& t) {
  const std::int64_t blocks = t.k / F::elements, blocks_in_a_part = columns_in_a_part / F::elements;
  const QuantizedRows x{t.x, t.x_stride, t.k};
  for (std::int64_t i = 0; i < t.m * panel_rows; ++i) t.scratch[i] = 0.0F;
  for (std::int64_t block = 0; block < blocks; block += blocks_in_a_part) {
    const std::int64_t rest = blocks - block;
    Part part{.panel = t.panel,
              .block = block,
              .blocks = rest < blocks_in_a_part ? rest : blocks_in_a_part,
              .ahead = t.ahead};
    if (t.ahead == 0) part.next = t.panel + bytes_of<F>(blocks) + halves_offset(F::halves, F::quads_in_block, block);
    multiply_part<F>(part, x, t.m, t.scratch);
  }
  finish(t);
}

/// The largest magnitude of a block, NaN where there is one: as integers, magnitudes are ordered and NaN is largest.
MAMBA2_INLINE float largest_magnitude(const float* x, int count) {
  Ints largest = {};
  for (int i = 0; i < count; i += lanes) {
    const Ints magnitude = (Ints)load(x + i) & 0x7FFFFFFF;
    largest = magnitude > largest ? magnitude : largest;
  }
  std::int32_t most = largest[0];
  for (int i = 1; i < lanes; ++i) most = largest[i] > most ? largest[i] : most;
  return __builtin_bit_cast(float, most);
}

/// One block: to[i] = x[i] / scale to nearest, at most 127 in magnitude.
template <int elements>
MAMBA2_INLINE float quantize_block(const float* x, std::int8_t* to) {
  constexpr float to_integer = 0x1.8p23F;  // added, it leaves the nearest integer in the low bits
  float scale = largest_magnitude(x, elements) / 127.0F;
  if (scale < smallest_scale) scale = smallest_scale;
  const float inverse = 1.0F / scale;
  for (int i = 0; i < elements; ++i) {
    const float shifted = x[i] * inverse + to_integer;
    to[i] = static_cast<std::int8_t>(__builtin_bit_cast(std::int32_t, shifted));
  }
  return scale;
}

std::int32_t sum_of(const std::int8_t* q, int count) {
  std::int32_t sum = 0;
  for (int i = 0; i < count; ++i) sum += q[i];
  return sum;
}

/// What correction() and mins() multiply: the sum of a block, or the sums of its groups, two a dword, in the order of
/// even_bytes and odd_bytes.
template <class F>
void write_extras(const std::int8_t* q, std::int32_t* extras) {
  if constexpr (F::groups == 1) {
    extras[0] = sum_of(q, F::elements);
  } else {
    constexpr int group = F::elements / F::groups;
    for (int i = 0; i < F::groups / 2; ++i) {
      const int first = i / 2 * 4 + i % 2;
      const std::int32_t low = sum_of(q + first * group, group), high = sum_of(q + (first + 2) * group, group);
      extras[i] = static_cast<std::int32_t>((static_cast<std::uint32_t>(high) << 16) |
                                            (static_cast<std::uint32_t>(low) & 0xFFFFU));
    }
  }
}

template <class F>
void quantize_rows(const QuantizeRowsTask& t) {
  const std::int64_t blocks = t.k / F::elements;
  for (std::int64_t row = 0; row < t.rows; ++row) {
    std::byte* const to = t.to + row * t.to_stride;
    auto* const q = reinterpret_cast<std::int8_t*>(to);
    auto* const scales = reinterpret_cast<float*>(to + t.k);
    auto* const extras = reinterpret_cast<std::int32_t*>(to + t.k + blocks * 4);
    for (std::int64_t b = 0; b < blocks; ++b) {
      scales[b] = quantize_block<F::elements>(t.x + row * t.x_stride + b * F::elements, q + b * F::elements);
      write_extras<F>(q + b * F::elements, extras + b * F::extras);
    }
  }
}

template <class F>
constexpr QuantizedKernels kernels_of = {quantize_rows<F>, quantized_linear<F>};

}  // namespace

QuantizedKernels quantized_kernels(DType dtype) {
  switch (dtype) {
    case DType::q4_0: return kernels_of<Q4_0>;
    case DType::q4_1: return kernels_of<Q4_1>;
    case DType::q5_0: return kernels_of<Q5_0>;
    case DType::q5_1: return kernels_of<Q5_1>;
    case DType::q4_k: return kernels_of<Q4K>;
    case DType::q5_k: return kernels_of<Q5K>;
    case DType::q6_k: return kernels_of<Q6K>;
    default: return kernels_of<Q8_0>;
  }
}

}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
