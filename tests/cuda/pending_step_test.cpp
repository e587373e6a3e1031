#include "mamba2/cuda/pending_step.h"

#include <gtest/gtest.h>

#include "tests/cuda/mixer_case.h"

namespace mamba2::cuda {
namespace {

/// The sequences of a case on the device, token by token: with room for pending tokens, of which there are none.
class MixerOnDevice {
 public:
  MixerOnDevice(const MixerCase& c, std::vector<std::int32_t> positions, int layer)
      : case_(c),
        positions_(std::move(positions)),
        layer_(layer),
        since_(c.slots.size() + 1),
        conv_weight_(c.conv_weight, DType::f32),
        conv_bias_(c.conv_bias, DType::f32),
        dt_bias_(c.dt_bias, DType::f32),
        A_log_(c.A_log, DType::f32),
        D_(c.D, DType::f32),
        slots_(c.slots),
        conv_state_(c.conv_state, DType::f32),
        ssm_state_(c.ssm_state, c.state_dtype),
        input_(slots() * heads() * room * 64 * element_size(c.state_dtype)),
        B_(slots() * groups() * room * static_cast<std::size_t>(c.shape.state_size) * element_size(c.state_dtype)),
        log_decay_(slots() * heads() * room * sizeof(float)),
        arrivals_(std::vector<std::int32_t>(c.slots.size() * groups(), 0)) {
    nothing_pending();
  }

  /// The next token of every sequence, whose rows these are.
  std::vector<double> step(const std::vector<double>& rows, bool by_chance = false) {
    const DeviceArray row(rows, DType::f32), since(since_), at(positions_);
    const DeviceArray out(rows_of_out() * sizeof(float)), convolved(conv_elements() * sizeof(float));
    PendingStep op;
    op.step = mixer_step_of(row, convolved, out);
    if (by_chance) op.step.rounding = {.positions = at.ints(), .layer = static_cast<unsigned>(layer_)};
    op.ring = ring(since);
    op.positions = at.ints();
    op.layer = layer_;
    pending_step(op, nullptr);
    for (std::int32_t& position : positions_) ++position;
    return out.download(DType::f32);
  }

  /// The same by the kernel that leaves nothing pending, with the state rounded by chance.
  std::vector<double> plain_step_by_chance(const std::vector<double>& rows) {
    const DeviceArray row(rows, DType::f32), at(positions_);
    const DeviceArray out(rows_of_out() * sizeof(float)), convolved(conv_elements() * sizeof(float));
    MixerStep op = mixer_step_of(row, convolved, out);
    op.rounding = {.positions = at.ints(), .layer = static_cast<unsigned>(layer_)};
    mixer_step(op, nullptr);
    return out.download(DType::f32);
  }

  void settle() {
    const DeviceArray since(since_), ends(positions_);
    settle_states({.shape = case_.shape,
                   .sequences = case_.sequences,
                   .slots = slots_.ints(),
                   .ends = ends.ints(),
                   .ring = ring(since),
                   .ssm_state = ssm_state_.data(),
                   .state_dtype = case_.state_dtype,
                   .layer = layer_},
                  nullptr);
    (void)ssm_state_.download();  // since and ends go
    nothing_pending();
  }

  std::vector<double> ssm_state() const { return ssm_state_.download(case_.state_dtype); }

 private:
  static constexpr std::size_t room = pending_room;

  std::size_t slots() const { return case_.slots.size() + 1; }
  std::size_t heads() const { return static_cast<std::size_t>(case_.shape.num_heads); }
  std::size_t groups() const { return static_cast<std::size_t>(case_.shape.n_groups); }
  std::size_t rows_of_out() const { return static_cast<std::size_t>(case_.sequences * case_.inner()); }
  std::size_t conv_elements() const { return static_cast<std::size_t>(case_.sequences * case_.conv_dim()); }

  void nothing_pending() {
    for (std::size_t s = 0; s < positions_.size(); ++s)
      since_[static_cast<std::size_t>(case_.slots[s])] = positions_[s];
  }
  PendingRing ring(const DeviceArray& since) const {
    return {input_.data(), B_.data(), static_cast<float*>(log_decay_.data()), since.ints()};
  }
  MixerStep mixer_step_of(const DeviceArray& row, const DeviceArray& convolved, const DeviceArray& out) const {
    MixerStep step;
    step.shape = case_.shape;
    step.conv_kernel = case_.kernel;
    step.zxBCdt = {row.data(), case_.stride()};
    step.conv_weight = conv_weight_.floats();
    step.conv_bias = conv_bias_.floats();
    step.dt_bias = dt_bias_.floats();
    step.dt_max = static_cast<float>(mixer_dt_max);
    step.A_log = A_log_.floats();
    step.D = D_.floats();
    step.gate = case_.gate;
    step.sequences = case_.sequences;
    step.slots = slots_.ints();
    step.conv_state = static_cast<float*>(conv_state_.data());
    step.ssm_state = ssm_state_.data();
    step.state_dtype = case_.state_dtype;
    step.out = {out.data(), case_.inner()};
    step.arrivals = static_cast<unsigned*>(arrivals_.data());
    step.convolved = static_cast<float*>(convolved.data());
    return step;
  }

  MixerCase case_;
  std::vector<std::int32_t> positions_;
  int layer_;
  std::vector<std::int32_t> since_;
  DeviceArray conv_weight_, conv_bias_, dt_bias_, A_log_, D_, slots_, conv_state_, ssm_state_, input_, B_, log_decay_,
      arrivals_;
};

std::vector<std::int32_t> random_positions(int count, Random& random) {
  std::vector<std::int32_t> positions;
  for (int i = 0; i < count; ++i) positions.push_back(uniform_int(0, 1000, random));
  return positions;
}

std::vector<double> random_rows(const MixerCase& c, Random& random) {
  return rounded_to(normal_values(static_cast<std::size_t>(c.sequences * c.stride()), random), DType::f32);
}

/// Errors of f32 in units of the largest sum of terms' sizes: fast exponentials and sums as in one step (64 units) and
/// a few more for each token.  A state in bf16 has been rounded to half a unit once for each time it took what was
/// pending, each input and each B once: in units of an element's own sum.
struct Bound {
  double of_largest, of_own;

  Bound(DType state_dtype, int tokens, int settled)
      : of_largest((64 + 4 * tokens) * epsilon(DType::f32)),
        of_own(state_dtype == DType::f32 ? 0 : epsilon(state_dtype) * (1 + 0.5 * settled)) {}

  /// The largest |got - want| as a share of what is allowed; infinity where got holds a NaN.
  double share(const std::vector<double>& got, const std::vector<double>& want, const std::vector<double>& mass) const {
    const double largest = *std::ranges::max_element(mass);
    double found = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double share = std::abs(got[i] - want[i]) / (of_largest * largest + of_own * mass[i]);
      found = std::isnan(share) ? INFINITY : std::max(found, share);
    }
    return found;
  }
};

TEST(PendingStep, ManyTokensAgreeWithTheRecurrenceInDouble) {
  Random random(1);
  constexpr int tokens = 21;
  for (int i = 0; i < 16; ++i) {
    const int groups = uniform_int(1, 3, random);
    const SsdShape shape{groups * uniform_int(1, 5, random), 64, groups, i % 4 < 2 ? 64 : 128};
    MixerCase c = random_mixer_case(shape, i % 2 == 0 ? DType::f32 : DType::bf16, uniform_int(1, 4, random),
                                    uniform_int(2, 4, random), random);
    SCOPED_TRACE("state " + std::string(name(c.state_dtype)) + " N" + std::to_string(shape.state_size) + " H" +
                 std::to_string(shape.num_heads) + " G" + std::to_string(groups) + " case " + std::to_string(i));
    MixerOnDevice device(c, random_positions(c.sequences, random), uniform_int(0, 63, random));
    const int settles_after = uniform_int(0, tokens, random);
    int settled = 0;
    for (int t = 0; t < tokens; ++t) {
      if (t == settles_after) {
        device.settle();
        ++settled;
      }
      c.row = random_rows(c, random);
      const MixerResult want = mixer_reference(c);
      const std::vector<double> got = device.step(c.row);
      const Bound bound(c.state_dtype, t + 1, settled + 1 + t / pending_room);
      EXPECT_LE(bound.share(got, want.out, want.out_mass), 1) << "token " << t;
      c.conv_state = want.conv_state;
      c.ssm_state = want.ssm_state;
      c.ssm_mass = want.ssm_mass;
    }
    device.settle();
    const Bound bound(c.state_dtype, tokens, settled + 2 + tokens / pending_room);
    EXPECT_LE(bound.share(device.ssm_state(), c.ssm_state, c.ssm_mass), 1) << "state";
  }
}

TEST(PendingStep, AnEighthOfTheHeadsIsWrittenAtEachToken) {
  Random random(2);
  MixerCase c = random_mixer_case({16, 64, 1, 64}, DType::f32, 1, 4, random);
  constexpr int layer = 3, position = 10;
  MixerOnDevice device(c, {position}, layer);
  for (int t = 0; t < 2 * pending_room; ++t) {
    const std::vector<double> before = device.ssm_state();
    device.step(random_rows(c, random));
    const std::vector<double> after = device.ssm_state();
    for (int head = 0; head < 16; ++head) {
      const std::ptrdiff_t first = (std::ptrdiff_t{c.slots[0]} * 16 + head) * 64 * 64;
      const bool same = std::equal(before.begin() + first, before.begin() + first + 64 * 64, after.begin() + first);
      EXPECT_EQ(!same, (position + t + 1 + head + layer) % pending_room == 0) << "head " << head << " token " << t;
    }
  }
}

TEST(PendingStep, ASequencesBitsDoNotDependOnItsNeighbours) {
  Random random(3);
  for (const DType state_dtype : {DType::f32, DType::bf16}) {
    const MixerCase c = random_mixer_case({6, 64, 2, 128}, state_dtype, 4, 4, random);
    const std::vector<std::int32_t> positions = random_positions(c.sequences, random);
    MixerOnDevice together(c, positions, 1);
    MixerCase second = c;
    second.sequences = 1;
    second.slots = {c.slots[1]};
    // its slot is beyond those of one sequence: the state stays as large
    second.slots.resize(c.slots.size(), 0);
    MixerOnDevice alone(second, {positions[1], 0, 0, 0}, 1);
    for (int t = 0; t < 11; ++t) {
      const std::vector<double> rows = random_rows(c, random);
      const std::vector<double> all = together.step(rows);
      const auto first = rows.begin() + c.stride();
      const std::vector<double> one = alone.step({first, first + c.stride()});
      EXPECT_TRUE(std::equal(one.begin(), one.end(), all.begin() + c.inner())) << "token " << t;
    }
  }
}

TEST(PendingStep, RoundsAStateByTheChanceThatTheMixersStepDoes) {
  Random random(4);
  for (const int N : {64, 128}) {
    const MixerCase c = random_mixer_case({8, 64, 2, N}, DType::bf16, 2, 4, random);
    const std::vector<std::int32_t> positions{77, 100000};
    MixerOnDevice pending(c, positions, 5), plain(c, positions, 5);
    const std::vector<double> rows = random_rows(c, random);
    pending.step(rows, true);
    plain.plain_step_by_chance(rows);
    const std::vector<double> got = pending.ssm_state(), want = plain.ssm_state();
    std::size_t compared = 0, differing = 0;
    for (std::size_t s = 0; s < positions.size(); ++s)
      for (int head = 0; head < 8; ++head) {
        if ((positions[s] + 1 + head + 5) % pending_room != 0) continue;
        const std::size_t first = static_cast<std::size_t>((c.slots[s] * 8 + head) * 64 * N);
        for (std::size_t i = first; i < first + static_cast<std::size_t>(64 * N); ++i, ++compared)
          differing += got[i] != want[i] ? 1 : 0;
      }
    EXPECT_EQ(compared, static_cast<std::size_t>(2 * 64 * N));
    EXPECT_LT(differing, compared / 100);  // a unit of f32 decides where the chance is near
  }
}

}  // namespace
}  // namespace mamba2::cuda
