// Ops of several ranks over NCCL, of which one GPU is enough: the library is called, recorded and replayed, and what
// comes before and after it is all there.
#include <cmath>

#include "mamba2/cuda/nccl.h"
#include "tests/cuda/backend_support.h"

namespace mamba2::test {
namespace {

class OneRank : public CudaBackendOps {
 protected:
  void SetUp() override {
    CudaBackendOps::SetUp();
    if (IsSkipped()) return;
    if (const std::string nccl = cuda::describe_nccl(); !nccl.starts_with("NCCL")) GTEST_SKIP() << nccl;
  }
  /// Of a process's life: joining takes NCCL a second.
  static Backend& rank(cuda::Precision precision) {
    static const auto exact = make_cuda_backends(cuda::Precision::exact, 1);
    static const auto fast = make_cuda_backends(cuda::Precision::fast, 1);
    return precision == cuda::Precision::exact ? *exact.front() : *fast.front();
  }
  static std::vector<float> floats_of(Backend& backend, const Tensor& tensor) {
    const HostTensor host(DType::f32, tensor.shape);
    backend.download(tensor, host);
    return {host.span<float>().begin(), host.span<float>().end()};
  }
};

TEST_F(OneRank, AddsWhatItHas) {
  for (const auto precision : {cuda::Precision::exact, cuda::Precision::fast})
    for (const std::int64_t rows : {0, 1, 8, 9, 70}) {
      Backend& backend = rank(precision);
      Operands o(backend, 5, Values::as_drawn);
      const Tensor x = o.dense(Shape{rows, 33}), add = o.dense(Shape{rows, 33});
      const std::vector<float> products = floats_of(backend, x), before = floats_of(backend, add);
      backend.run(AddOverRanks{.x = x, .add = add, .out = add});
      const std::vector<float> after = floats_of(backend, add);
      const bool rounds = precision == cuda::Precision::fast && rows > 8;
      for (std::size_t i = 0; i < after.size(); ++i)
        ASSERT_EQ(after[i], before[i] + (rounds ? to_float(to_bf16(products[i])) : products[i])) << rows << ": " << i;
    }
}

TEST_F(OneRank, NormsGroupsOfWhichItHasAPart) {
  Backend& backend = rank(cuda::Precision::exact);
  for (const auto& [width, group_size, first, groups] :
       {std::tuple(64, 64, 0, 1), {100, 100, 0, 1}, {30, 20, 10, 2}, {48, 8, 16, 9}}) {
    Operands o(backend, 6, Values::as_drawn);
    const Tensor x = o.rows(3, width), weight = o.dense(Shape{width}), out = o.unwritten(3, width);
    const DeviceTensor sums = backend.allocate(DType::f32, {3, groups});
    backend.run(NormOverRanks{.x = x,
                              .weight = weight,
                              .group_size = group_size,
                              .first_channel = first,
                              .eps = 1e-5,
                              .square_sums = sums,
                              .out = out});
    const std::vector<float> values = floats_of(backend, x), scales = floats_of(backend, weight),
                             got = floats_of(backend, out);
    for (int r = 0; r < 3; ++r)
      for (int c = 0; c < width; ++c) {
        double squares = 0;
        for (int i = 0; i < width; ++i)
          if ((first + i) / group_size == (first + c) / group_size)
            squares += std::pow(static_cast<double>(values[static_cast<std::size_t>(r * width + i)]), 2);
        const auto place = static_cast<std::size_t>(r * width + c);
        const double want =
            values[place] / std::sqrt(squares / group_size + 1e-5) * scales[static_cast<std::size_t>(c)];
        // a sum folded by threads, rsqrt good to two units, two products
        ASSERT_NEAR(got[place], want, (foldings + 4) * 0x1p-24 * std::abs(want)) << width << ": " << r << ", " << c;
      }
  }
}

TEST_F(OneRank, ReplaysWhatItSays) {
  Backend& backend = rank(cuda::Precision::exact);
  Operands o(backend, 7, Values::as_drawn);
  const Tensor x = o.dense(Shape{2, 16}), hidden = o.dense(Shape{2, 16}), weight = o.dense(Shape{16});
  const Tensor normed = o.dense(Shape{2, 16}), tokens = o.integers({3, 1, 4});
  const DeviceTensor sums = backend.allocate(DType::f32, {2, 1}),
                     start = backend.upload(HostTensor(DType::f32, {2, 16}), DType::f32);
  std::vector<float> first;
  constexpr int launched_recorded_and_replayed = 5;
  for (int time = 0; time < launched_recorded_and_replayed; ++time) {
    backend.copy(start, hidden);
    backend.copy(start, normed);
    for (int layer = 0; layer < 3; ++layer) {
      backend.run(RmsNorm{.x = x, .weight = weight, .eps = 1e-5, .out = normed});
      backend.run(AddOverRanks{.x = normed, .add = hidden, .out = hidden});
      backend.run(NormOverRanks{
          .x = hidden, .weight = weight, .group_size = 16, .eps = 1e-5, .square_sums = sums, .out = hidden});
    }
    backend.run(Broadcast{.x = tokens});
    const std::vector<float> got = floats_of(backend, hidden);
    if (time == 0)
      first = got;
    else
      EXPECT_EQ(got, first) << time;
  }
  EXPECT_NE(first, std::vector<float>(32));
  const HostTensor ids(DType::i32, {3});
  backend.download(tokens, ids);
  EXPECT_EQ(std::vector<std::int32_t>(ids.span<std::int32_t>().begin(), ids.span<std::int32_t>().end()),
            (std::vector<std::int32_t>{3, 1, 4}));
}

TEST_F(CudaBackendOps, MoreRanksThanGpusAreRefused) {
  const int gpus = cuda::describe().gpus;
  try {
    make_cuda_backends(cuda::Precision::fast, gpus + 1);
    FAIL() << "a GPU more than there are";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("this machine has " + std::to_string(gpus)), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace mamba2::test
