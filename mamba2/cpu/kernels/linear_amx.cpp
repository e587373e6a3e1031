// Matrix products in bf16 with AMX: the tiles of amx_tiles.h in the processor's tile registers.
#include "mamba2/cpu/kernels/amx_tiles.h"

namespace mamba2::cpu::MAMBA2_CPU_ISA {
namespace {

/// Some compilers' tile intrinsics do not say that they read memory: all that was written there is, as of here.
MAMBA2_INLINE void finish_writing(const void* memory) {
  asm volatile("" : : "r"(memory) : "memory");
}

/// What LDTILECFG reads.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

/// Sums in tiles 0 to 3 (upper and lower half of the panel by two groups of x), weights in 4 and 5, x in 6 and 7.
class HardwareTiles {
 public:
  HardwareTiles() {
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) {
      config.row_bytes[tile] = columns_in_a_tile * sizeof(std::uint16_t);
      config.rows[tile] = tile_side;
    }
    finish_writing(&config);
    _tile_loadconfig(&config);
  }
  HardwareTiles(const HardwareTiles&) = delete;
  HardwareTiles& operator=(const HardwareTiles&) = delete;
  ~HardwareTiles() { _tile_release(); }  // so that the system need not save them

  MAMBA2_INLINE void clear(const std::uint16_t* panel) {
    finish_writing(panel);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }

  MAMBA2_INLINE void add(const std::uint16_t* w, const std::uint16_t* x0, const std::uint16_t* x1) {
    _tile_loadd(4, w, line);
    _tile_loadd(6, x0, line);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, x1, line);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, w + tile_elements, line);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }

  /// The large parts of w by both parts of x, the small ones by the large ones.
  MAMBA2_INLINE void add_split(const std::uint16_t* w, const std::uint16_t* x0, const std::uint16_t* x1) {
    load_weights(w);
    load_rows(x0 + tile_elements, x1 + tile_elements);
    multiply();
    load_rows(x0, x1);
    multiply();
    load_weights(w + 2 * tile_elements);
    multiply();
  }

  MAMBA2_INLINE void store(float* sums) {
    constexpr int row = panel_side * sizeof(float);
    _tile_stored(0, sums, row);
    _tile_stored(1, sums + tile_side, row);
    _tile_stored(2, sums + tile_side * panel_side, row);
    _tile_stored(3, sums + tile_side * panel_side + tile_side, row);
    finish_writing(sums);
  }

 private:
  MAMBA2_INLINE void load_weights(const std::uint16_t* w) {
    _tile_loadd(4, w, line);
    _tile_loadd(5, w + tile_elements, line);
  }
  MAMBA2_INLINE void load_rows(const std::uint16_t* x0, const std::uint16_t* x1) {
    _tile_loadd(6, x0, line);
    _tile_loadd(7, x1, line);
  }
  MAMBA2_INLINE void multiply() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }

  static constexpr int line = columns_in_a_tile * sizeof(std::uint16_t);
};

}  // namespace

Kernels kernels() {
  Kernels made = avx512_bf16::kernels();
  made.round_rows = round_to_tiles;
  made.linear_rounded = linear_by_tiles<Rounded, HardwareTiles>;
  made.split_rows = split_to_tiles;
  made.linear_split = linear_by_tiles<Split, HardwareTiles>;
  return made;
}

}  // namespace mamba2::cpu::MAMBA2_CPU_ISA
