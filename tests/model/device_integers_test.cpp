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

TEST(DeviceIntegers, AreUploadedOnlyWhereTheDeviceHoldsOthers) {
  const auto backend = make_reference_backend();
  DeviceIntegers integers;
  integers.values = {1, 2, 3};
  auto* const on_device = integers.upload(*backend).as<std::int32_t>();
  on_device[0] = 9;  // what an upload would overwrite
  EXPECT_EQ(on_host(integers.upload(*backend)), (std::vector<std::int32_t>{9, 2, 3}));
  integers.values = {1, 2};
  EXPECT_EQ(on_host(integers.upload(*backend)), (std::vector<std::int32_t>{9, 2}));
  integers.advance();
  integers.values = {2, 3, 4};
  EXPECT_EQ(on_host(integers.upload(*backend)), (std::vector<std::int32_t>{9, 2, 3}));
  integers.forget();
  EXPECT_EQ(on_host(integers.upload(*backend)), integers.values);
}

}  // namespace
}  // namespace mamba2
