#include "mamba2/cuda/causal_conv.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/cuda/support.h"

namespace mamba2::cuda {
namespace {

double activated(double x, Activation activation) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu: return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5)));
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::relu: return x > 0 ? x : 0.0;
    case Activation::tanh: return std::tanh(x);
    case Activation::sigmoid: return 1 / (1 + std::exp(-x));
  }
  return x;
}

struct Case {
  DType dtype;
  DType state_dtype;
  int channels;
  int kernel;
  int padding;
  Activation activation;
  bool biased;
  std::vector<std::int32_t> start{0}, slots;
  std::vector<double> x, weight, bias, state;
};

Case random_case(DType dtype, int channels, int kernel, const std::vector<int>& lengths, Random& random) {
  Case c{dtype,
         uniform_int(0, 1, random) == 0 ? DType::f32 : dtype,
         channels,
         kernel,
         8 * uniform_int(0, 1, random),
         static_cast<Activation>(uniform_int(0, 6, random)),
         uniform_int(0, 2, random) > 0,
         {0},
         {},
         {},
         {},
         {},
         {}};
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    c.start.push_back(c.start.back() + lengths[i]);
    c.slots.push_back(static_cast<std::int32_t>(lengths.size() - i));  // slot 0 belongs to nobody
  }
  const auto width = static_cast<std::size_t>(channels);
  c.x = rounded_to(normal_values(static_cast<std::size_t>(c.start.back()) * width, random), dtype);
  c.weight = rounded_to(normal_values(width * static_cast<std::size_t>(kernel), random), DType::f32);
  c.bias = rounded_to(normal_values(width, random), DType::f32);
  c.state =
      rounded_to(normal_values((lengths.size() + 1) * width * static_cast<std::size_t>(kernel - 1), random), dtype);
  return c;
}

struct Result {
  std::vector<double> out, state;
};

Result reference(const Case& c) {
  Result result{std::vector<double>(c.x.size()), c.state};
  const int context = c.kernel - 1;
  for (std::size_t s = 0; s < c.slots.size(); ++s) {
    for (int channel = 0; channel < c.channels; ++channel) {
      double* state = result.state.data() + static_cast<std::ptrdiff_t>(c.slots[s] * c.channels + channel) * context;
      std::vector<double> line(state, state + context);
      for (int t = c.start[s]; t < c.start[s + 1]; ++t)
        line.push_back(c.x[static_cast<std::size_t>(t * c.channels + channel)]);
      for (int t = c.start[s]; t < c.start[s + 1]; ++t) {
        double sum = c.biased ? c.bias[static_cast<std::size_t>(channel)] : 0.0;
        for (int k = 0; k < c.kernel; ++k)
          sum += c.weight[static_cast<std::size_t>(channel * c.kernel + k)] *
                 line[static_cast<std::size_t>(t - c.start[s] + k)];
        result.out[static_cast<std::size_t>(t * c.channels + channel)] = activated(sum, c.activation);
      }
      std::copy(line.end() - context, line.end(), state);
    }
  }
  return result;
}

Result on_device(const Case& c) {
  const std::int64_t stride = c.channels + c.padding;
  const std::size_t tokens = static_cast<std::size_t>(c.start.back());
  std::vector<double> rows(tokens * static_cast<std::size_t>(stride), std::nan(""));
  for (std::size_t t = 0; t < tokens; ++t)
    for (int i = 0; i < c.channels; ++i)
      rows[t * static_cast<std::size_t>(stride) + static_cast<std::size_t>(i)] =
          c.x[t * static_cast<std::size_t>(c.channels) + static_cast<std::size_t>(i)];
  const DeviceArray x(rows, c.dtype), weight(c.weight, DType::f32), bias(c.bias, DType::f32),
      state(c.state, c.state_dtype);
  const DeviceArray start(c.start), slots(c.slots), out(x.size());
  CausalConv conv;
  conv.dtype = conv.out_dtype = c.dtype;
  conv.channels = c.channels;
  conv.conv_kernel = c.kernel;
  conv.activation = c.activation;
  conv.x = {x.data(), stride};
  conv.weight = weight.floats();
  if (c.biased) conv.bias = bias.floats();
  conv.batch = {start.ints(), slots.ints(), static_cast<int>(c.slots.size()), c.start.back()};
  conv.conv_state = state.data();
  conv.state_dtype = c.state_dtype;
  conv.out = {out.data(), stride};
  causal_conv(conv, nullptr);
  Result result{{}, state.download(c.state_dtype)};
  const std::vector<double> got = out.download(c.dtype);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::int64_t i = 0; i < stride; ++i) {
      const double value = got[t * static_cast<std::size_t>(stride) + static_cast<std::size_t>(i)];
      EXPECT_TRUE(i < c.channels || std::isnan(value)) << "wrote between rows";
      if (i < c.channels) result.out.push_back(value);
    }
  return result;
}

TEST(CausalConv, AgreesWithItsDefinitionInDoubleOverRandomShapes) {
  Random random(1);
  const DType dtypes[] = {DType::bf16, DType::f32, DType::f16};
  for (int i = 0; i < 60; ++i) {
    const int channels = i % 2 == 0 ? 8 * uniform_int(1, 60, random) : uniform_int(1, 300, random);
    const int kernel = i % 3 == 0 ? uniform_int(1, 7, random) : 4;
    const std::vector<int> lengths{uniform_int(0, 120, random), uniform_int(0, 4, random), uniform_int(1, 3, random),
                                   uniform_int(45, 50, random)};
    const Case c = random_case(dtypes[i % 3], channels, kernel, lengths, random);
    SCOPED_TRACE(std::string(name(c.dtype)) + " channels " + std::to_string(channels) + " kernel " +
                 std::to_string(kernel));
    const Result want = reference(c), got = on_device(c);
    // rounding the result, and kernel + 1 roundings in f32 of terms of the sum and its activation (erf and exp to 2
    // ulp)
    double largest = 0;
    for (const double value : want.out) largest = std::max(largest, std::abs(value));
    const double bound = (0.5 * epsilon(c.dtype) + (kernel + 8) * epsilon(DType::f32)) * std::max(largest, 4.0);
    EXPECT_LE(max_error(got.out, want.out), bound) << "out";
    EXPECT_EQ(max_error(got.state, want.state), 0.0) << "state";
  }
}

TEST(CausalConv, TakesMoreSequencesThanAGridHasRows) {
  Random random(2);
  const Case c = random_case(DType::bf16, 16, 4, {5, 1, 40}, random);
  Case behind_empty_ones = c;
  constexpr std::size_t count = 70'000;
  behind_empty_ones.start.insert(behind_empty_ones.start.begin(), count, 0);
  behind_empty_ones.slots.insert(behind_empty_ones.slots.begin(), count, 0);
  const Result want = on_device(c), got = on_device(behind_empty_ones);
  EXPECT_EQ(got.out, want.out);
  EXPECT_EQ(got.state, want.state);
}

}  // namespace
}  // namespace mamba2::cuda
