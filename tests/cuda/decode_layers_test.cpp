#include "mamba2/cuda/decode_layers.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "mamba2/cuda/device.h"
#include "mamba2/cuda/linear.h"
#include "mamba2/cuda/mixer_step.h"
#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

// ---- the plan, which needs no GPU ----

constexpr int hopper_multiprocessors = 132, hopper_shared_bytes = 227 << 10, fixed_bytes = 1024, layer_bytes = 88;

constexpr DecodeShape models[] = {{256, 8, 128, 8, 1, 4},    {768, 24, 128, 24, 1, 4},  {1024, 32, 128, 48, 1, 4},
                                  {1536, 48, 128, 36, 1, 4}, {2048, 64, 128, 48, 1, 4}, {2560, 80, 128, 64, 1, 4},
                                  {64, 1, 64, 1, 1, 2},      {192, 5, 64, 3, 2, 2}};

DecodePlan plan_for(const DecodeShape& shape, int multiprocessors = hopper_multiprocessors) {
  return decode_plan(shape, multiprocessors, hopper_shared_bytes, fixed_bytes, layer_bytes);
}

TEST(DecodePlan, GivesEveryRowOfBothWeightsToOneBlock) {
  for (const DecodeShape& shape : models)
    for (const int multiprocessors : {78, 114, 132}) {
      const int blocks = std::min({multiprocessors, shape.hidden, shape.inner()});
      std::vector<int> in(static_cast<std::size_t>(2 * shape.inner() + shape.shared_columns())),
          out(static_cast<std::size_t>(shape.hidden));
      for (int block = 0; block < blocks; ++block) {
        const DecodeShare share(shape, blocks, block);
        for (int row = 0; row < share.products[0].rows; ++row)
          ++in[static_cast<std::size_t>(share.weight_row(0, row, shape))];
        for (int row = 0; row < share.products[1].rows; ++row)
          ++out[static_cast<std::size_t>(share.weight_row(1, row, shape))];
      }
      for (const int times : in) EXPECT_EQ(times, 1);
      for (const int times : out) EXPECT_EQ(times, 1);
    }
}

TEST(DecodePlan, CutsABlocksRowsIntoTilesAndColumnsIntoRoundsWithoutGaps) {
  for (int rows = 1; rows < 200; ++rows)
    for (const int columns : {64, 512, 768, 5120}) {
      const DecodeProduct product{rows, columns};
      int next = 0;
      for (int tile = 0; tile < product.tiles(); ++tile) {
        EXPECT_EQ(product.tile(tile).first, next);
        EXPECT_LE(product.tile(tile).count, decode_tile_rows);
        EXPECT_GE(product.tile(tile).count, 1);
        next += product.tile(tile).count;
      }
      EXPECT_EQ(next, rows);
      int sum = 0;
      for (int round = 0; round < product.rounds(); ++round) sum += product.round_columns(round);
      EXPECT_EQ(sum, columns);
      EXPECT_EQ(product.stride() % 128, decode_row_gap);
    }
}

TEST(DecodePlan, GivesEveryValueOfARowAWordOfItsOwn) {
  for (const int width : {1, 64, 128, 133, 320, 768}) {
    std::vector<int> taken(static_cast<std::size_t>(exchange_stride(width)));
    for (int i = 0; i < width; ++i) {
      const int place = exchange_place(i);
      ASSERT_LT(place, exchange_stride(width));
      EXPECT_EQ(++taken[static_cast<std::size_t>(place)], 1);
      if (i % 2 == 1) {
        EXPECT_EQ(place, exchange_place(i - 1) + 1);
      }
      if (i % 4 == 2) {
        EXPECT_EQ(place, exchange_place(i - 2) + exchange_run / 2);
      }
    }
  }
}

TEST(DecodePlan, NamesAtLeastTheLargestStageOfAnyBlock) {
  for (const DecodeShape& shape : models) {
    const int blocks = std::min({hopper_multiprocessors, shape.hidden, shape.inner()});
    const int named =
        std::max(largest_stage(shape.shared_columns() / blocks + 2 * (shape.inner() / blocks), 3, shape.hidden),
                 largest_stage(shape.hidden / blocks, 1, shape.inner()));
    for (int block = 0; block < blocks; ++block) {
      const DecodeShare share(shape, blocks, block);
      DecodeWalk walk;
      do {
        EXPECT_LE(walk.bytes(share), named);
        walk.go_on(share);
      } while (walk.product + walk.tile + walk.round > 0);
    }
  }
}

/// What the kernel's copying warp does, with stages freed only when it has to wait.
TEST(DecodePlan, StagesUnderWayNeverOverlapInTheRingAndOneAlwaysHasRoom) {
  for (const DecodeShape& shape : models) {
    const DecodePlan plan = plan_for(shape);
    ASSERT_GT(plan.blocks, 0) << shape.hidden;
    for (const int block : {0, plan.blocks / 2, plan.blocks - 1}) {
      const DecodeShare share(shape, plan.blocks, block);
      struct Stage {
        int place, bytes, cost;
      };
      std::vector<Stage> under_way;
      RingCursor newest;
      int used = 0;
      DecodeWalk walk;
      for (int number = 0; number < 200; ++number, walk.go_on(share)) {
        const int bytes = walk.bytes(share);
        const RingCursor::Taken taken = newest.take(bytes, plan.ring_bytes);
        while (used + taken.cost > plan.ring_bytes) {
          ASSERT_FALSE(under_way.empty()) << "a stage of " << bytes << " bytes waits for ever";
          used -= under_way.front().cost;
          under_way.erase(under_way.begin());
        }
        used += taken.cost;
        ASSERT_LE(taken.place + bytes, plan.ring_bytes);
        for (const Stage& other : under_way)
          ASSERT_TRUE(other.place + other.bytes <= taken.place || taken.place + bytes <= other.place);
        under_way.push_back({taken.place, bytes, taken.cost});
      }
    }
  }
}

TEST(DecodePlan, RefusesWhatItHasNoRoomOrNoWayFor) {
  const DecodeShape fits = models[1];
  EXPECT_GT(plan_for(fits).blocks, 0);
  auto blocks_with = [&](auto change) {
    DecodeShape shape = fits;
    change(shape);
    return plan_for(shape).blocks;
  };
  EXPECT_EQ(blocks_with([](DecodeShape& s) { s.rows = 0; }), 0);
  EXPECT_EQ(blocks_with([](DecodeShape& s) { s.rows = decode_most_rows + 1; }), 0);
  EXPECT_EQ(blocks_with([](DecodeShape& s) { s.layers = 0; }), 0);
  EXPECT_EQ(blocks_with([](DecodeShape& s) { s.layers = decode_most_layers + 1; }), 0);
  EXPECT_EQ(blocks_with([](DecodeShape& s) { s.state_size = 256; }), 0);
  EXPECT_EQ(blocks_with([](DecodeShape& s) { s.hidden = 100; }), 0);
  EXPECT_EQ(blocks_with([](DecodeShape& s) { s.hidden = 0x7FFFFFC0; }), 0);
  EXPECT_EQ(blocks_with([](DecodeShape& s) { s.heads = 0x7FFFFFFF / decode_head_dim; }), 0);
  EXPECT_EQ(blocks_with([](DecodeShape& s) { s.hidden = 8192, s.heads = 256; }), 0);  // outputs of more than one tile
  EXPECT_EQ(blocks_with([](DecodeShape& s) { s.hidden = 2560, s.heads = 80, s.rows = 5; }), 0);  // x in three parts
  EXPECT_EQ(plan_for(fits, 4).blocks, 0);
}

// ---- the kernel ----

constexpr int slots_more = 2;

/// Normal values, a few thousand drawn and repeated out of step with any rows: there are many.
DeviceArray repeated(std::size_t count, DType dtype, double deviation, Random& random) {
  constexpr std::size_t drawn = 4099;
  const std::vector<std::byte> few = encode(normal_values(drawn, random, deviation), dtype);
  std::vector<std::byte> all(element_size(dtype) * count);
  for (std::size_t at = 0; at < all.size(); at += few.size())
    std::copy_n(few.begin(), std::min(few.size(), all.size() - at), all.begin() + static_cast<std::ptrdiff_t>(at));
  return DeviceArray(all);
}
DeviceArray weight(std::size_t count, Random& random) {
  return repeated(count, DType::bf16, 0.05, random);
}

/// A model of random weights and what its layers work on.
class Model {
 public:
  Model(const DecodeShape& shape, Random& random) : shape_(shape) {
    const auto inner = static_cast<std::size_t>(shape.inner()), hidden = static_cast<std::size_t>(shape.hidden),
               conv_dim = static_cast<std::size_t>(shape.conv_dim()), heads = static_cast<std::size_t>(shape.heads);
    const std::size_t projected = 2 * inner + static_cast<std::size_t>(shape.shared_columns());
    auto normal = [&](std::size_t count, double deviation = 1.0) {
      return DeviceArray(normal_values(count, random, deviation), DType::f32);
    };
    for (int i = 0; i < shape.layers; ++i) {
      layers_.push_back({weight(projected * hidden, random), weight(hidden * inner, random), normal(hidden),
                         normal(inner), normal(conv_dim * 4, 0.5), normal(conv_dim), normal(heads),
                         DeviceArray(log_uniform_values(heads, 1.0, 8.0, random), DType::f32), normal(heads)});
    }
  }

  const DecodeShape& shape() const { return shape_; }

  struct Layer {
    DeviceArray in_proj, out_proj, norm_weight, gated_norm_weight, conv_weight, conv_bias, dt_bias, A_log, D;
  };
  const std::vector<Layer>& layers() const { return layers_; }

 private:
  DecodeShape shape_;
  std::vector<Layer> layers_;
};

/// What a step reads and replaces, besides the exchange.
struct States {
  States(const DecodeShape& shape, DType state_dtype, std::uint64_t seed) : dtype(state_dtype) {
    Random random(seed);
    const std::size_t slots = decode_most_rows + slots_more;
    for (int i = 0; i < shape.layers; ++i) {
      conv.emplace_back(normal_values(slots * static_cast<std::size_t>(shape.conv_dim()) * 3, random), DType::f32);
      ssm.push_back(
          repeated(slots * static_cast<std::size_t>(shape.inner() * shape.state_size), state_dtype, 1.0, random));
    }
  }
  DType dtype;
  std::vector<DeviceArray> conv, ssm;
};

using Bytes = std::vector<std::byte>;

struct Step {
  int rows;
  std::vector<std::int32_t> slots, positions;  // positions empty: to nearest
  std::vector<double> hidden;
};

/// What device memory can hold.
std::vector<std::int32_t> some(const std::vector<std::int32_t>& values) {
  return values.empty() ? std::vector<std::int32_t>{0} : values;
}

constexpr float eps = 1e-5F, gated_eps = 2e-5F, dt_most = 2.0F;

/// By one kernel after the other.
Bytes by_parts(const Model& model, States& states, const Step& step) {
  const DecodeShape& shape = model.shape();
  const int inner = shape.inner(), projected = 2 * inner + shape.shared_columns();
  const auto rows = static_cast<std::size_t>(step.rows);
  const DeviceArray hidden(step.hidden, DType::f32), slots(step.slots), positions(some(step.positions)),
      zxBCdt(rows * static_cast<std::size_t>(projected) * 4), y(rows * static_cast<std::size_t>(inner) * 4),
      normed(rows * static_cast<std::size_t>(std::max(inner, shape.hidden)) * 4),
      arrivals(std::vector<std::int32_t>(rows, 0));
  for (int l = 0; l < shape.layers; ++l) {
    const auto i = static_cast<std::size_t>(l);
    const Model::Layer& w = model.layers()[i];
    LinearRows in{.rows = step.rows,
                  .inputs = shape.hidden,
                  .outputs = projected,
                  .x = {hidden.data(), shape.hidden},
                  .weight = {w.in_proj.data(), shape.hidden},
                  .weight_dtype = DType::bf16,
                  .add = {},
                  .out = {zxBCdt.data(), projected},
                  .norm = {.weight = w.norm_weight.floats(), .eps = eps, .normed = {normed.data(), shape.hidden}}};
    EXPECT_TRUE(linear_streamed_takes(in));
    linear_streamed(in, nullptr);
    MixerStep mixer;
    mixer.shape = {shape.heads, decode_head_dim, 1, shape.state_size};
    mixer.zxBCdt = {zxBCdt.data(), projected};
    mixer.conv_weight = w.conv_weight.floats();
    mixer.conv_bias = w.conv_bias.floats();
    mixer.dt_bias = w.dt_bias.floats();
    mixer.dt_max = dt_most;
    mixer.A_log = w.A_log.floats();
    mixer.D = w.D.floats();
    mixer.sequences = step.rows;
    mixer.slots = slots.ints();
    mixer.conv_state = static_cast<float*>(states.conv[i].data());
    mixer.ssm_state = states.ssm[i].data();
    mixer.state_dtype = states.dtype;
    if (!step.positions.empty()) mixer.rounding = {.positions = positions.ints(), .layer = static_cast<unsigned>(l)};
    mixer.out = {y.data(), inner};
    mixer.arrivals = static_cast<unsigned*>(arrivals.data());
    mixer_step(mixer, nullptr);
    LinearRows out{
        .rows = step.rows,
        .inputs = inner,
        .outputs = shape.hidden,
        .x = {y.data(), inner},
        .weight = {w.out_proj.data(), inner},
        .weight_dtype = DType::bf16,
        .add = {hidden.data(), shape.hidden},
        .out = {hidden.data(), shape.hidden},
        .norm = {.weight = w.gated_norm_weight.floats(), .eps = gated_eps, .normed = {normed.data(), inner}}};
    linear_streamed(out, nullptr);
  }
  return hidden.download();
}

Bytes at_once(const Model& model, States& states, const Step& step, const DeviceArray& exchange) {
  DecodeLayers op;
  op.shape = model.shape();
  op.shape.rows = step.rows;
  op.shape.state_element = static_cast<int>(element_size(states.dtype));
  op.norm_eps = eps;
  op.gated_norm_eps = gated_eps;
  op.dt_max = dt_most;
  const DeviceArray hidden(step.hidden, DType::f32), slots(step.slots), positions(some(step.positions));
  if (!step.positions.empty()) op.positions = positions.ints();
  op.slots = slots.ints();
  op.hidden = {hidden.data(), op.shape.hidden};
  op.exchange = static_cast<std::uint64_t*>(exchange.data());
  for (std::size_t i = 0; i < model.layers().size(); ++i) {
    const Model::Layer& w = model.layers()[i];
    op.layer[i] = {.in_proj = w.in_proj.data(),
                   .out_proj = w.out_proj.data(),
                   .norm_weight = w.norm_weight.floats(),
                   .gated_norm_weight = w.gated_norm_weight.floats(),
                   .conv_weight = w.conv_weight.floats(),
                   .conv_bias = w.conv_bias.floats(),
                   .dt_bias = w.dt_bias.floats(),
                   .A_log = w.A_log.floats(),
                   .D = w.D.floats(),
                   .conv_state = static_cast<float*>(states.conv[i].data()),
                   .ssm_state = states.ssm[i].data()};
  }
  EXPECT_TRUE(decode_layers_takes(op.shape));
  decode_layers(op, nullptr);
  return hidden.download();
}

Step random_step(const DecodeShape& shape, int rows, Random& random) {
  Step step{.rows = rows, .slots = {}, .positions = {}, .hidden = {}};
  std::vector<std::int32_t> free;
  for (int slot = 0; slot < decode_most_rows + slots_more; ++slot) free.push_back(slot);
  for (int r = 0; r < rows; ++r) {
    const auto which = free.begin() + uniform_int(0, static_cast<int>(free.size()) - 1, random);
    step.slots.push_back(*which);
    free.erase(which);
  }
  step.hidden = normal_values(static_cast<std::size_t>(rows) * static_cast<std::size_t>(shape.hidden), random);
  return step;
}

class DecodeLayersKernel : public testing::Test {
 protected:
  void SetUp() override {
    if (current_device().compute_capability / 10 != 9) GTEST_SKIP() << "needs compute capability 9.0";
  }

  /// Steps of different numbers of rows, one after the other through the same states and the same exchange.
  static void agree(const DecodeShape& shape, DType state_dtype, bool by_chance, const std::vector<int>& steps) {
    SCOPED_TRACE("hidden " + std::to_string(shape.hidden) + ", heads " + std::to_string(shape.heads) + ", state " +
                 std::to_string(shape.state_size) + " " + std::string(name(state_dtype)));
    Random random(static_cast<std::uint64_t>(shape.hidden));
    const Model model(shape, random);
    States one(shape, state_dtype, 5), other(shape, state_dtype, 5);
    const DeviceArray exchange(std::vector<std::int32_t>(2 * static_cast<std::size_t>(DecodeExchange(shape).words), 0));
    for (const int rows : steps) {
      Step step = random_step(shape, rows, random);
      if (by_chance)
        for (int r = 0; r < rows; ++r) step.positions.push_back(uniform_int(0, 100000, random));
      const Bytes want = by_parts(model, one, step), got = at_once(model, other, step, exchange);
      EXPECT_LT(root_mean_square(decode(want, DType::f32)), 1e6) << "numbers that say nothing";
      EXPECT_TRUE(got == want) << rows << " rows: hidden states differ by "
                               << max_error(decode(got, DType::f32), decode(want, DType::f32));
      for (std::size_t l = 0; l < one.conv.size(); ++l) {
        EXPECT_TRUE(one.conv[l].download() == other.conv[l].download()) << rows << " rows: conv_state of layer " << l;
        EXPECT_TRUE(one.ssm[l].download() == other.ssm[l].download())
            << rows << " rows: ssm_state of layer " << l << " differs by "
            << max_error(other.ssm[l].download(other.dtype), one.ssm[l].download(one.dtype));
      }
      if (testing::Test::HasFailure()) return;
    }
  }
};

TEST_F(DecodeLayersKernel, GivesTheBitsOfOneKernelAfterTheOther) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    agree({64, 2, 64, 1, 1, 4}, dtype, false, {1, 1});
    agree({192, 5, 64, 3, 1, 4}, dtype, false, {1, 2, 5, 1, 3});
    agree({256, 8, 128, 8, 1, 4}, dtype, false, {1, 5, 2, 4, 1, 3});
    agree({64, 17, 64, 2, 1, 4}, dtype, false, {1, 3});  // two tiles of in_proj
  }
}

TEST_F(DecodeLayersKernel, GivesThoseBitsAtTheShapesOfModels) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    agree({768, 24, 128, 6, 1, 4}, dtype, false, {1, 4, 1});
    agree({1024, 32, 128, 3, 1, 4}, dtype, false, {1, 2});
    agree({2560, 80, 128, 2, 1, 4}, dtype, false, {1, 1});
  }
}

TEST_F(DecodeLayersKernel, RoundsStatesByTheSameChance) {
  agree({192, 5, 64, 3, 1, 4}, DType::bf16, true, {1, 3});
  agree({256, 8, 128, 4, 1, 4}, DType::bf16, true, {1, 5});
}

}  // namespace
}  // namespace mamba2::cuda
