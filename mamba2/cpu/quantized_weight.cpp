#include "mamba2/cpu/quantized_weight.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <type_traits>
#include <vector>

#include "mamba2/base/error.h"
#include "mamba2/base/log.h"
#include "mamba2/tensor/quantized.h"

namespace mamba2::cpu {
namespace {

constexpr std::size_t largest_block = sizeof(BlockQ6K);

/// Bits i = 4 t + b of a block's fifth bits at 8 b + t.
std::uint32_t bits_by_column(std::uint32_t bits) {
  std::uint32_t sorted = 0;
  for (int b = 0; b < 4; ++b) {
    std::uint32_t every_fourth = bits >> b & 0x11111111U;
    every_fourth = (every_fourth | every_fourth >> 3) & 0x03030303U;
    every_fourth = (every_fourth | every_fourth >> 6) & 0x000F000FU;
    sorted |= ((every_fourth | every_fourth >> 12) & 0xFFU) << (8 * b);
  }
  return sorted;
}

std::uint32_t bits_by_element(std::uint32_t sorted) {
  std::uint32_t bits = 0;
  for (int b = 0; b < 4; ++b) {
    std::uint32_t every_fourth = sorted >> (8 * b) & 0xFFU;
    every_fourth = (every_fourth | every_fourth << 12) & 0x000F000FU;
    every_fourth = (every_fourth | every_fourth << 6) & 0x03030303U;
    every_fourth = (every_fourth | every_fourth << 3) & 0x11111111U;
    bits |= every_fourth << b;
  }
  return bits;
}

/// Where a panel has the quad that is the i-th of GGUF's block.
int place_of_quad(DType dtype, int i) {
  if (dtype == DType::q5_k) return i < 3 ? i : i < 11 ? q5_k_high(i - 3) : q5_k_low(i - 11);
  if (dtype == DType::q6_k) return i < 32 ? q6_k_low(i) : i < 48 ? q6_k_high(i - 32) : q6_k_scale(i - 48);
  return i;
}

/// Calls field(in_block, in_panel, bytes) for each field of a block: where it lies in GGUF's block and, of the panel's
/// first row, how far from the panel's start.  The other rows' follow, `bytes` (a constant) each.
template <class Field>
void for_each_field(const QuantizedLayout& layout, DType dtype, std::int64_t block, Field&& field) {
  const int halves = layout.halves, quads = layout.quads;
  const std::int64_t first_half = layout.halves_first ? 0 : quads * 4;
  const std::int64_t first_quad = layout.halves_first ? halves * 2 : 0;
  const std::int64_t panel_halves = halves_offset(halves, quads, block),
                     panel_quads = quads_offset(halves, quads, block);
  for (int i = 0; i < halves; ++i)
    field(first_half + i * 2, panel_halves + i * panel_rows * 2, std::integral_constant<std::int64_t, 2>{});
  for (int i = 0; i < quads; ++i)
    field(first_quad + i * 4, panel_quads + place_of_quad(dtype, i) * panel_rows * 4,
          std::integral_constant<std::int64_t, 4>{});
}

void reorder_bits(std::byte* quad, std::uint32_t (*order)(std::uint32_t)) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, quad, sizeof bits);
  bits = order(bits);
  std::memcpy(quad, &bits, sizeof bits);
}

std::size_t block_bytes(const QuantizedLayout& layout) {
  return static_cast<std::size_t>(layout.halves) * 2 + static_cast<std::size_t>(layout.quads) * 4;
}

std::int64_t checked_blocks(const Tensor& host, DType held_as, const QuantizedLayout& layout) {
  require(host.size(1) % layout.elements == 0, "a weight is {}, but rows held as {} are whole blocks of {}",
          to_string(host.shape), name(held_as), layout.elements);
  return host.size(1) / layout.elements;
}

std::int64_t panels_of(std::int64_t rows) {
  return (rows + panel_rows - 1) / panel_rows;
}

}  // namespace

QuantizedWeight::QuantizedWeight(const Tensor& host, DType held_as, Isa isa, ThreadPool& pool)
    : PreparedWeight(host.shape, held_as),
      kernels_(quantized_kernels_for(isa, held_as)),
      layout_(quantized_layouts[quantized_index(held_as)]),
      blocks_(checked_blocks(host, held_as, layout_)),
      panel_bytes_(cpu::panel_bytes(layout_, blocks_)),
      panels_(static_cast<std::size_t>(panels_of(host.size(0)) * panel_bytes_)) {
  const auto start = std::chrono::steady_clock::now();
  std::atomic<bool> failed{false};
  std::exception_ptr failure;
  const std::int64_t row_bytes = static_cast<std::int64_t>(bytes_for(held_as, host.size(1)));
  pool.parallel_for(panels_of(host.size(0)), 1, [&](std::int64_t begin, std::int64_t end, int) {
    try {
      std::vector<std::byte> quantized(host.dtype == held_as ? 0 : static_cast<std::size_t>(row_bytes) * panel_rows);
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t row = i * panel_rows;
        Tensor rows = host.slice(0, row, std::min<std::int64_t>(panel_rows, host.size(0) - row));
        if (host.dtype != held_as) {
          const Tensor blocks(quantized.data(), held_as, rows.shape);
          convert(rows, blocks);
          rows = blocks;
        }
        pack(rows, panels_.data() + i * panel_bytes_);
      }
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
  log_debug("packed a matrix {} of {} in {:.1f} ms", to_string(host.shape), name(held_as), taken.count());
}

/// Up to panel_rows rows of blocks into a panel, field by field: reads and writes are runs of lines on both sides.
void QuantizedWeight::pack(const Tensor& rows, std::byte* panel) const {
  const std::int64_t count = rows.size(0);
  const auto stride = static_cast<std::int64_t>(bytes_for(dtype, rows.stride(0)));
  if (count < panel_rows || blocks_ % 2 != 0) std::memset(panel, 0, static_cast<std::size_t>(panel_bytes_));
  for (std::int64_t b = 0; b < blocks_; ++b) {
    const std::byte* const block = rows.as<std::byte>() + b * static_cast<std::int64_t>(block_bytes(layout_));
    for_each_field(layout_, dtype, b, [&](std::int64_t in_block, std::int64_t in_panel, auto bytes) {
      for (std::int64_t row = 0; row < count; ++row)
        std::memcpy(panel + in_panel + row * bytes, block + in_block + row * stride, bytes);
    });
    if (layout_.fifth_bits)
      for (std::int64_t row = 0; row < count; ++row)
        reorder_bits(panel + quads_offset(layout_.halves, layout_.quads, b) + row * 4, bits_by_column);
  }
}

void QuantizedWeight::read_row(std::int64_t row, std::span<float> to) const {
  std::array<std::byte, largest_block> block{};
  const std::byte* const from = panel(row / panel_rows);
  const auto elements = static_cast<std::size_t>(layout_.elements);
  for (std::int64_t b = 0; b < blocks_; ++b) {
    for_each_field(layout_, dtype, b, [&](std::int64_t in_block, std::int64_t in_panel, auto bytes) {
      std::memcpy(block.data() + in_block, from + in_panel + row % panel_rows * bytes, bytes);
    });
    // They lie behind the f16 fields of a block that has them.
    if (layout_.fifth_bits) reorder_bits(block.data() + layout_.halves * 2, bits_by_element);
    dequantize(dtype, block.data(), to.subspan(static_cast<std::size_t>(b) * elements, elements));
  }
}

}  // namespace mamba2::cpu
