// How the layers of a decode step are shared out among the multiprocessors that run them together, and what goes where
// in their shared memory: pure arithmetic, for host and device.
#pragma once

#include <algorithm>
#include <cstdint>

namespace mamba2::cuda {

constexpr int decode_head_dim = 64, decode_conv_kernel = 4;
constexpr int decode_x_parts = 3;        // bf16s that an element of x is the sum of
constexpr int decode_most_rows = 5;      // whose parts are the rows of one instruction's operand
constexpr int decode_most_layers = 128;  // their pointers are arguments of the kernel
constexpr int decode_warps = 8;          // that compute
constexpr int decode_tile_rows = 32;     // rows of a weight that a block multiplies at a time: two instructions' worth
constexpr int decode_panel_columns = 64, decode_stage_columns = decode_warps * decode_panel_columns;
constexpr int decode_most_stages = 12;  // under way at most
constexpr int decode_most_tiles = 8;    // of a block's rows of a weight
/// Bytes between rows whose pieces of 128 bytes two lanes of neighbouring rows read at once: they lie in other banks.
constexpr int decode_row_gap = 64;
constexpr int decode_fold_stride = decode_tile_rows + 8;  // pairs of a warp's sums lie in different banks

struct DecodeShape {
  int hidden = 0;  // hidden_size
  int heads = 0;   // num_heads of head_dim 64, one group
  int state_size = 0;
  int layers = 0;
  int rows = 0;           // sequences, one token each
  int state_element = 0;  // bytes

  constexpr int inner() const { return heads * decode_head_dim; }
  constexpr int conv_dim() const { return inner() + 2 * state_size; }
  /// Columns B, C and dt of in_proj's output, which every multiprocessor needs.
  constexpr int shared_columns() const { return 2 * state_size + heads; }
  bool operator==(const DecodeShape&) const = default;
};

struct Part {
  int first = 0, count = 0;
};

/// Part `number` of `all` things in `parts` parts that differ by one at most.  all parts fits an int.
constexpr Part part_of(int all, int parts, int number) {
  const int first = all * number / parts;
  return {first, all * (number + 1) / parts - first};
}

/// A block's rows of a weight, in tiles of at most 32, a tile in rounds of 512 columns: a stage each.
struct DecodeProduct {
  int rows = 0, columns = 0;

  constexpr int tiles() const { return (rows + decode_tile_rows - 1) / decode_tile_rows; }
  constexpr int rounds() const { return (columns + decode_stage_columns - 1) / decode_stage_columns; }
  constexpr Part tile(int number) const { return part_of(rows, tiles(), number); }
  constexpr int round_columns(int round) const {
    const int left = columns - round * decode_stage_columns;
    return left < decode_stage_columns ? left : decode_stage_columns;
  }
  /// Bytes from a row of a stage to the next.
  constexpr int stride() const { return 2 * round_columns(0) + decode_row_gap; }
};

/// What a block does of every layer.  The rows of in_proj that it multiplies are, in this order: its share of B, C and
/// dt, which go to all blocks; then x and z of its channels, which no other block needs, nor their states.
struct DecodeShare {
  Part shared, channels, outputs;
  DecodeProduct products[2];  // in_proj, out_proj
  Part tiles[2][decode_most_tiles];

  constexpr DecodeShare(const DecodeShape& shape, int blocks, int block)
      : shared(part_of(shape.shared_columns(), blocks, block)),
        channels(part_of(shape.inner(), blocks, block)),
        outputs(part_of(shape.hidden, blocks, block)),
        products{{shared.count + 2 * channels.count, shape.hidden}, {outputs.count, shape.inner()}},
        tiles{} {
    for (int p = 0; p < 2; ++p)
      for (int tile = 0; tile < products[p].tiles(); ++tile) tiles[p][tile] = products[p].tile(tile);
  }

  /// Which row of a weight is the block's row `local`; in_proj's output has columns [z, x, B, C, dt].
  constexpr int weight_row(int product, int local, const DecodeShape& shape) const {
    if (product == 1) return outputs.first + local;
    if (local < shared.count) return 2 * shape.inner() + shared.first + local;
    const int own = local - shared.count;
    return own < channels.count ? shape.inner() + channels.first + own : channels.first + own - channels.count;
  }
};

/// The stages of a block's share, layer after layer.
struct DecodeWalk {
  int product = 0, tile = 0, round = 0;

  constexpr int bytes(const DecodeShare& share) const {
    return share.tiles[product][tile].count * share.products[product].stride();
  }
  constexpr void go_on(const DecodeShare& share) {
    if (++round < share.products[product].rounds()) return;
    round = 0;
    if (++tile < share.products[product].tiles()) return;
    tile = 0;
    product ^= 1;
  }
};

/// Where stages of different sizes lie in a ring: one after the other, none across its end.
struct RingCursor {
  int end = 0;  // of the last stage

  struct Taken {
    int place, cost;  // cost: its bytes and those left out before it
  };
  constexpr Taken take(int bytes, int capacity) {
    const bool fits = end + bytes <= capacity;
    const int place = fits ? end : 0, gap = fits ? 0 : capacity - end;
    end = place + bytes;
    return {place, gap + bytes};
  }
};

/// Where value `index` of a row lies among the row's words: in runs of 128, first the first two of every four, then the
/// others, so that what a warp reads at once, a pair a lane, has no gaps.
constexpr int exchange_run = 128;
constexpr int exchange_place(int index) {
  const int four = index % exchange_run / 4;
  return index / exchange_run * exchange_run + index % 4 / 2 * (exchange_run / 2) + 2 * four + index % 2;
}
/// Words from a row to the next.
constexpr int exchange_stride(int width) {
  return (width + exchange_run - 1) / exchange_run * exchange_run;
}

/// Words of memory through which the blocks exchange values: one a value, with the number of the exchange beside it.
/// 128 bytes for the number of exchanges so far, then rows of hidden states, of shared columns and of y.
struct DecodeExchange {
  static constexpr int first = 128 / 8;
  int hidden_at, shared_at, y_at, words;

  constexpr explicit DecodeExchange(const DecodeShape& shape)
      : hidden_at(first),
        shared_at(hidden_at + decode_most_rows * exchange_stride(shape.hidden)),
        y_at(shared_at + decode_most_rows * exchange_stride(shape.shared_columns())),
        words(y_at + decode_most_rows * exchange_stride(shape.inner())) {}
};

/// Shared memory of a block: bytes from its start.  blocks 0: the shape is not taken.
struct DecodePlan {
  int blocks = 0;
  int channels = 0;   // of a block, at most
  int x_stride = 0;   // bytes from a row of x, in bf16, to the next
  int parts_at = 0;   // (3, rows): x in three parts
  int gains_at = 0;   // (hidden), (inner) f32: the weights of the two norms
  int BC_at = 0;      // (rows, 2 state_size) f32
  int own_at = 0;     // (2, rows, channels) f32: x after the convolution, silu(z)
  int fold_at = 0;    // (2, warps, rows, fold_stride) f32
  int layers_at = 0;  // (layers): their pointers
  int states_at = 0;  // (rows, channels, state_size)
  int ring_at = 0, ring_bytes = 0;
  int bytes = 0;
};

/// Bytes of the largest stage of a product with `rows` to `rows + more` rows a block.
constexpr int largest_stage(int rows, int more, int columns) {
  int largest = 0;
  for (int count = rows; count <= rows + more; ++count) {
    const DecodeProduct product{count, columns};
    for (int tile = 0; tile < product.tiles(); ++tile)
      largest = std::max(largest, product.tile(tile).count * product.stride());
  }
  return largest;
}

/// fixed_bytes and layer_bytes: of what else the kernel keeps, and of a layer's pointers; shared_bytes: that a block
/// may have.
constexpr DecodePlan decode_plan(const DecodeShape& shape, int multiprocessors, int shared_bytes, int fixed_bytes,
                                 int layer_bytes) {
  constexpr int aligned_to = 128;
  DecodePlan plan;
  const bool known_state = shape.state_size == 64 || shape.state_size == 128;
  constexpr int widest = 1 << 20;  // times blocks still an int
  if (shape.hidden > widest || shape.heads > widest / decode_head_dim) return plan;
  if (shape.rows < 1 || shape.rows > decode_most_rows || shape.layers < 1 || shape.layers > decode_most_layers ||
      !known_state || shape.hidden % decode_panel_columns != 0 || shape.hidden < 1 || shape.heads < 1)
    return plan;
  // A block without channels would not hold up the others, who might then overwrite what it has yet to read; one
  // without outputs has no residual to add to.
  const int blocks = std::min(multiprocessors, std::min(shape.hidden, shape.inner()));
  plan.channels = (shape.inner() + blocks - 1) / blocks;
  if ((shape.hidden + blocks - 1) / blocks > decode_tile_rows || plan.channels > decode_head_dim) return plan;
  const int most_rows = (shape.shared_columns() + blocks - 1) / blocks + 2 * plan.channels;
  if (DecodeProduct{most_rows, shape.hidden}.tiles() > decode_most_tiles) return plan;
  int at = 0;
  auto place = [&at](int bytes) {
    const int here = at;
    at += (bytes + aligned_to - 1) / aligned_to * aligned_to;
    return here;
  };
  constexpr int f32 = 4;
  place(fixed_bytes);
  plan.x_stride = 2 * std::max(shape.hidden, shape.inner()) + decode_row_gap;
  plan.parts_at = place(decode_x_parts * shape.rows * plan.x_stride);
  plan.gains_at = place((shape.hidden + shape.inner()) * f32);
  plan.BC_at = place(shape.rows * 2 * shape.state_size * f32);
  plan.own_at = place(2 * shape.rows * plan.channels * f32);
  plan.fold_at = place(2 * decode_warps * shape.rows * decode_x_parts * decode_fold_stride * f32);
  plan.layers_at = place(shape.layers * layer_bytes);
  plan.states_at = place(shape.rows * plan.channels * shape.state_size * shape.state_element);
  plan.ring_at = at;
  plan.ring_bytes = shared_bytes - at;
  const int largest =
      std::max(largest_stage(shape.shared_columns() / blocks + 2 * (shape.inner() / blocks), 3, shape.hidden),
               largest_stage(shape.hidden / blocks, 1, shape.inner()));
  // A stage that does not fit before the ring's end leaves less than its own size: two have room, so none waits for
  // ever.  With fewer than three, copies would not run ahead.
  constexpr int least_stages = 3;
  if (plan.ring_bytes < least_stages * largest) return plan;
  plan.bytes = shared_bytes;
  plan.blocks = blocks;
  return plan;
}

}  // namespace mamba2::cuda
