#include "mamba2/cuda/ssd_scan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "mamba2/cuda/device.h"
#include "mamba2/cuda/token_ops.h"
#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

/// A scan's sizes and operands, rounded to their dtypes.
struct Case {
  SsdShape shape;
  DType dtype = DType::f32;
  DType state_dtype = DType::f32;
  std::vector<std::int32_t> sequence_start{0};
  std::vector<std::int32_t> slots;
  int padding = 0;  // elements between rows
  bool gated = false;
  bool D_per_channel = false;
  std::vector<double> x, B, C, z, dt, A_log, A, D, state;
  std::vector<double> dt_bias;  // where there is one, dt is what it is before bias, softplus and limit
  float dt_min = 0.0F, dt_max = 0.0F;

  int tokens() const { return sequence_start.back(); }
  int sequences() const { return static_cast<int>(slots.size()); }
  std::size_t state_elements() const {
    return static_cast<std::size_t>(shape.num_heads) * static_cast<std::size_t>(shape.head_dim * shape.state_size);
  }
};

Case random_case(SsdShape shape, DType dtype, DType state_dtype, const std::vector<int>& lengths, Random& random) {
  Case c;
  c.shape = shape;
  c.dtype = dtype;
  c.state_dtype = state_dtype;
  for (const int length : lengths) c.sequence_start.push_back(c.sequence_start.back() + length);
  c.slots.resize(lengths.size());
  std::iota(c.slots.begin(), c.slots.end(), 1);  // slot 0 belongs to nobody
  std::rotate(c.slots.begin(), c.slots.begin() + static_cast<int>(lengths.size()) / 2, c.slots.end());
  c.padding = 8 * uniform_int(0, 2, random);
  c.gated = uniform_int(0, 3, random) == 0;
  c.D_per_channel = uniform_int(0, 1, random) == 0;
  const auto tokens = static_cast<std::size_t>(c.tokens());
  const auto heads = static_cast<std::size_t>(shape.num_heads);
  const auto width = heads * static_cast<std::size_t>(shape.head_dim);
  const auto shared = static_cast<std::size_t>(shape.n_groups * shape.state_size);
  c.x = rounded_to(normal_values(tokens * width, random), dtype);
  c.z = rounded_to(normal_values(tokens * width, random), dtype);
  c.B = rounded_to(normal_values(tokens * shared, random), dtype);
  c.C = rounded_to(normal_values(tokens * shared, random), dtype);
  c.dt = rounded_to(log_uniform_values(tokens * heads, 1e-4, 2.0, random), DType::f32);
  c.A = rounded_to(log_uniform_values(heads, 0.05, 16.0, random), DType::f32);
  c.A_log.clear();
  for (double& a : c.A) {
    c.A_log.push_back(rounded_to(std::log(a), DType::f32));
    a = -std::exp(c.A_log.back());
  }
  c.D = rounded_to(normal_values(c.D_per_channel ? width : heads, random), DType::f32);
  c.state = rounded_to(normal_values(c.state_elements() * (lengths.size() + 1), random), state_dtype);
  return c;
}

struct Result {
  std::vector<double> out, state;
};

/// The recurrence as it is defined, in Real.  operands: what a product's factors are rounded to before they meet (f64:
/// not at all).
template <class Real>
Result recurrence(const Case& c, DType operands) {
  Result result{std::vector<double>(c.x.size()), c.state};
  const int P = c.shape.head_dim, N = c.shape.state_size, H = c.shape.num_heads;
  auto factor = [operands](Real value) { return static_cast<Real>(rounded_to(static_cast<double>(value), operands)); };
  for (int s = 0; s < c.sequences(); ++s) {
    for (int h = 0; h < H; ++h) {
      const int group = h / (H / c.shape.n_groups);
      for (int p = 0; p < P; ++p) {
        double* slot = result.state.data() + static_cast<std::size_t>(c.slots[s]) * c.state_elements() +
                       static_cast<std::size_t>((h * P + p) * N);
        std::vector<Real> state(slot, slot + N);
        for (int t = c.sequence_start[s]; t < c.sequence_start[s + 1]; ++t) {
          const auto dt = static_cast<Real>(c.dt[t * H + h]), x = static_cast<Real>(c.x[(t * H + h) * P + p]);
          const Real decay = std::exp(dt * static_cast<Real>(c.A[h])), added = factor(dt * x);
          const std::size_t shared = static_cast<std::size_t>((t * c.shape.n_groups + group) * N);
          Real y = 0;
          for (int n = 0; n < N; ++n) {
            state[n] = decay * state[n] + added * static_cast<Real>(c.B[shared + n]);
            y += factor(state[n]) * static_cast<Real>(c.C[shared + n]);
          }
          y += static_cast<Real>(c.D[c.D_per_channel ? h * P + p : h]) * x;
          if (c.gated) {
            const auto z = static_cast<Real>(c.z[(t * H + h) * P + p]);
            y = factor(y) * z / (1 + std::exp(-z));
          }
          result.out[(t * H + h) * P + p] = static_cast<double>(factor(y));
        }
        for (int n = 0; n < N; ++n)
          slot[n] = operands == DType::f64 ? static_cast<double>(state[n])
                                           : rounded_to(static_cast<double>(state[n]), c.state_dtype);
      }
    }
  }
  return result;
}

/// Rows `padding` elements apart, the gaps NaN.
std::vector<double> with_gaps(const std::vector<double>& values, std::size_t width, int padding) {
  const std::size_t stride = width + static_cast<std::size_t>(padding), rows = values.size() / width;
  std::vector<double> result(rows * stride, std::numeric_limits<double>::quiet_NaN());
  for (std::size_t r = 0; r < rows; ++r)
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(r * width), width,
                result.begin() + static_cast<std::ptrdiff_t>(r * stride));
  return result;
}

enum class Path { general, tensor_cores };

Result on_device(const Case& c, Path path) {
  const auto width = static_cast<std::size_t>(c.shape.num_heads * c.shape.head_dim);
  const auto shared = static_cast<std::size_t>(c.shape.n_groups * c.shape.state_size);
  const std::int64_t x_stride = static_cast<std::int64_t>(width) + c.padding;
  const std::int64_t shared_stride = static_cast<std::int64_t>(shared) + c.padding;
  const DeviceArray x(with_gaps(c.x, width, c.padding), c.dtype), z(with_gaps(c.z, width, c.padding), c.dtype);
  const DeviceArray B(with_gaps(c.B, shared, c.padding), c.dtype), C(with_gaps(c.C, shared, c.padding), c.dtype);
  const DeviceArray dt(c.dt, DType::f32), A_log(c.A_log, DType::f32), D(c.D, DType::f32), state(c.state, c.state_dtype);
  const DeviceArray start(c.sequence_start), slots(c.slots), out(x.size()), dt_bias(c.dt_bias, DType::f32);
  SsdScan scan;
  scan.shape = c.shape;
  scan.dtype = c.dtype;
  scan.x = {x.data(), x_stride};
  scan.B = {B.data(), shared_stride};
  scan.C = {C.data(), shared_stride};
  if (c.gated) scan.z = {z.data(), x_stride};
  scan.dt = dt.floats();
  scan.dt_stride = c.shape.num_heads;
  if (!c.dt_bias.empty()) scan.dt_bias = dt_bias.floats();
  scan.dt_min = c.dt_min;
  scan.dt_max = c.dt_max;
  scan.A_log = A_log.floats();
  scan.D = D.floats();
  scan.D_head_stride = c.D_per_channel ? c.shape.head_dim : 1;
  scan.D_channel_stride = c.D_per_channel ? 1 : 0;
  scan.batch = {start.ints(), slots.ints(), c.sequences(), c.tokens()};
  scan.ssm_state = state.data();
  scan.state_dtype = c.state_dtype;
  scan.out = {out.data(), x_stride};
  if (path == Path::general) {
    ssd_scan_general(scan, nullptr);
  } else {
    EXPECT_TRUE(ssd_scan_is_tuned(scan, 90));
    const DeviceArray workspace(ssd_scan_workspace(scan));
    ssd_scan(scan, workspace.data(), nullptr);
  }
  Result result{{}, state.download(c.state_dtype)};
  const std::vector<double> rows = out.download(c.dtype);
  for (std::size_t r = 0; r < rows.size() / static_cast<std::size_t>(x_stride); ++r) {
    const auto row = rows.begin() + static_cast<std::ptrdiff_t>(r) * x_stride;
    result.out.insert(result.out.end(), row, row + static_cast<std::ptrdiff_t>(width));
    for (auto gap = row + static_cast<std::ptrdiff_t>(width); gap != row + x_stride; ++gap)
      EXPECT_TRUE(std::isnan(*gap)) << "wrote between rows";
  }
  return result;
}

/// At most twice the error of the plain evaluation, whose factors are rounded to the same dtype, and, of a typical
/// value, half a unit in the last place and sixteen in f32's (the device's exponential is off by two where the host's
/// is by one half, which a slowly decaying state adds up).
void expect_near_reference(const Case& c, Path path) {
  const Result want = recurrence<double>(c, DType::f64), plain = recurrence<float>(c, c.dtype),
               got = on_device(c, path);
  const double units = 0.5 * epsilon(c.dtype) + 16 * epsilon(DType::f32);
  EXPECT_LE(max_error(got.out, want.out), 2 * max_error(plain.out, want.out) + units * root_mean_square(want.out))
      << "out";
  EXPECT_LE(max_error(got.state, want.state),
            2 * max_error(plain.state, want.state) + units * root_mean_square(want.state))
      << "state";
}

std::string describe(const Case& c) {
  std::string text = std::string(name(c.dtype)) + " state " + std::string(name(c.state_dtype)) + " H" +
                     std::to_string(c.shape.num_heads) + " P" + std::to_string(c.shape.head_dim) + " G" +
                     std::to_string(c.shape.n_groups) + " N" + std::to_string(c.shape.state_size) + " starts";
  for (const int start : c.sequence_start) text += " " + std::to_string(start);
  return text + (c.gated ? " gated" : "");
}

TEST(SsdScanGeneral, AgreesWithTheRecurrenceInDoubleOverRandomShapes) {
  Random random(1);
  const DType dtypes[] = {DType::f32, DType::bf16, DType::f16};
  for (int i = 0; i < 30; ++i) {
    const int groups = uniform_int(1, 3, random);
    const SsdShape shape{groups * uniform_int(1, 3, random), uniform_int(1, 70, random), groups,
                         i % 10 == 9 ? uniform_int(257, 300, random) : uniform_int(1, 256, random)};
    const std::vector<int> lengths{uniform_int(0, 40, random), uniform_int(0, 2, random), uniform_int(1, 20, random)};
    const Case c = random_case(shape, dtypes[i % 3], i % 2 == 0 ? DType::f32 : DType::bf16, lengths, random);
    SCOPED_TRACE(describe(c));
    expect_near_reference(c, Path::general);
  }
}

class SsdScanTensorCores : public testing::Test {
 protected:
  void SetUp() override {
    if (current_device().compute_capability != 90) GTEST_SKIP() << "needs a device of compute capability 9.0";
  }
};

TEST_F(SsdScanTensorCores, AgreesWithTheRecurrenceInDoubleOverRandomShapes) {
  Random random(2);
  for (int i = 0; i < 24; ++i) {
    const int groups = uniform_int(1, 2, random);
    const SsdShape shape{groups * uniform_int(1, 3, random), 64, groups, i % 3 == 0 ? 64 : 128};
    const std::vector<int> lengths{uniform_int(1, 300, random), uniform_int(0, 2, random), uniform_int(63, 65, random),
                                   64 * uniform_int(1, 4, random)};
    const Case c = random_case(shape, i % 4 == 3 ? DType::f16 : DType::bf16, i % 5 == 4 ? DType::bf16 : DType::f32,
                               lengths, random);
    SCOPED_TRACE(describe(c));
    expect_near_reference(c, Path::tensor_cores);
  }
}

TEST_F(SsdScanTensorCores, AgreesWithTheRecurrenceWhereASequenceHasManySegments) {
  Random random(3);
  const Case c = random_case({3, 64, 1, 128}, DType::bf16, DType::f32, {1500, 7, 700}, random);
  expect_near_reference(c, Path::tensor_cores);
}

/// The same behind more empty sequences than a grid has rows; they have slot 0, which belongs to nobody.
Case behind_empty_sequences(Case c) {
  constexpr std::size_t count = 70'000;
  c.sequence_start.insert(c.sequence_start.begin(), count, 0);
  c.slots.insert(c.slots.begin(), count, 0);
  return c;
}

TEST(SsdScanGeneral, TakesMoreSequencesThanAGridHasRows) {
  Random random(7);
  const Case c = random_case({2, 5, 1, 9}, DType::f32, DType::f32, {3, 1, 20}, random);
  const Result want = on_device(c, Path::general), got = on_device(behind_empty_sequences(c), Path::general);
  EXPECT_EQ(got.out, want.out);
  EXPECT_EQ(got.state, want.state);
}

TEST_F(SsdScanTensorCores, TakesMoreSequencesThanAGridHasRows) {
  Random random(8);
  const Case c = random_case({2, 64, 1, 64}, DType::bf16, DType::f32, {1500, 1, 70}, random);
  const Result want = on_device(c, Path::tensor_cores), got = on_device(behind_empty_sequences(c), Path::tensor_cores);
  EXPECT_EQ(got.out, want.out);
  EXPECT_EQ(got.state, want.state);
}

TEST_F(SsdScanTensorCores, GivesEqualBitsWhenRunTwice) {
  Random random(4);
  const Case c = random_case({4, 64, 2, 128}, DType::bf16, DType::f32, {700, 129}, random);
  const Result first = on_device(c, Path::tensor_cores), second = on_device(c, Path::tensor_cores);
  EXPECT_EQ(first.out, second.out);
  EXPECT_EQ(first.state, second.state);
}

TEST_F(SsdScanTensorCores, TakesDtBeforeItsSoftplus) {
  Random random(9);
  const int heads = 6;
  Case before = random_case({heads, 64, 2, 128}, DType::bf16, DType::f32, {700, 1, 129}, random);
  before.dt = rounded_to(normal_values(before.dt.size(), random, 3.0), DType::f32);
  before.dt_bias = rounded_to(normal_values(heads, random), DType::f32);
  before.dt_min = 0.001F;
  before.dt_max = 2.5F;
  const DeviceArray raw(before.dt, DType::f32), bias(before.dt_bias, DType::f32), dt(raw.size());
  SoftplusDt step;
  step.tokens = before.tokens();
  step.num_heads = heads;
  step.dt_raw = {raw.data(), heads};
  step.bias = bias.floats();
  step.dt_min = before.dt_min;
  step.dt_max = before.dt_max;
  step.dt = static_cast<float*>(dt.data());
  step.dt_stride = heads;
  softplus_dt(step, nullptr);
  Case after = before;
  after.dt = dt.download(DType::f32);
  after.dt_bias.clear();
  const Result got = on_device(before, Path::tensor_cores), want = on_device(after, Path::tensor_cores);
  EXPECT_EQ(got.out, want.out);
  EXPECT_EQ(got.state, want.state);
}

TEST_F(SsdScanTensorCores, KeepsInfinitiesInTheirSequence) {
  Random random(5);
  Case c = random_case({2, 64, 1, 128}, DType::bf16, DType::f32, {70, 70, 70}, random);
  const std::size_t width = 2 * 64;
  for (std::size_t i = 70 * width; i < 140 * width; ++i) c.x[i] = std::numeric_limits<double>::infinity();
  for (std::size_t i = std::size_t{70} * 128; i < std::size_t{140} * 128; ++i) {
    c.B[i] = std::numeric_limits<double>::quiet_NaN();
    c.C[i] = std::numeric_limits<double>::quiet_NaN();
  }
  const Result got = on_device(c, Path::tensor_cores);
  for (std::size_t t = 0; t < 210; ++t) {
    if (t >= 70 && t < 140) continue;
    for (std::size_t i = 0; i < width; ++i) ASSERT_TRUE(std::isfinite(got.out[t * width + i])) << "token " << t;
  }
}

TEST(SsdTiles, BoundWhatAnyBatchOfTheseTotalsNeeds) {
  Random random(6);
  for (int i = 0; i < 2000; ++i) {
    const int groups = uniform_int(1, 8, random);
    const SsdShape shape{groups * uniform_int(1, 40, random), 64, groups, 128};
    Batch batch;
    batch.sequences = uniform_int(1, 20, random);
    std::vector<int> lengths;
    for (int s = 0; s < batch.sequences; ++s)
      lengths.push_back(uniform_int(0, 1 << uniform_int(1, 15, random), random));
    batch.tokens = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
    const SsdTiles tiles = ssd_tiles(shape, batch, uniform_int(1, 200, random));
    ASSERT_EQ(tiles.part_tokens % ssd_chunk_tokens, 0);
    ASSERT_EQ(tiles.segment_tokens % tiles.part_tokens, 0);
    int segments = 0, parts = 0;
    for (const int length : lengths) {
      segments += (length + tiles.segment_tokens - 1) / tiles.segment_tokens;
      if (length > tiles.segment_tokens) parts += (length + tiles.part_tokens - 1) / tiles.part_tokens + 1;
    }
    ASSERT_LE(segments, tiles.segments_bound);
    ASSERT_LE(parts, tiles.parts_bound);
  }
}

}  // namespace
}  // namespace mamba2::cuda
