#include "mamba2/model/device_integers.h"

#include <gtest/gtest.h>

#include "mamba2/reference/reference_backend.h"

namespace mamba2 {
namespace {

std::vector<std::int32_t> on_host(const Tensor& tensor) {
  return {tensor.as<std::int32_t>(), tensor.as<std::int32_t>() + tensor.elements()};
}

TEST(DeviceIntegers, KeepTheirPlaceWhileTheirContentsChange) {
  const auto backend = make_reference_backend();
  DeviceIntegers integers;
  integers.values = {1, 2, 3};
  const Tensor first = integers.upload(*backend);
  EXPECT_EQ(on_host(first), integers.values);
  integers.values = {4, 5, 6, 7};
  const Tensor second = integers.upload(*backend);
  EXPECT_EQ(on_host(second), integers.values);
  EXPECT_EQ(second.data, first.data);
}

TEST(DeviceIntegers, GrowForALongerList) {
  const auto backend = make_reference_backend();
  DeviceIntegers integers;
  EXPECT_EQ(integers.upload(*backend).elements(), 0);
  integers.values.assign(1000, 8);
  EXPECT_EQ(on_host(integers.upload(*backend)), integers.values);
}

}  // namespace
}  // namespace mamba2
