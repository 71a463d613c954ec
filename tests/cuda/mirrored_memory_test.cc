#include "cuda/mirrored_memory.h"

#include <gtest/gtest.h>

#include <numeric>

#include "cuda/cuda_allocator.h"
#include "cuda/cuda_check.h"
#include "cuda/stream.h"
#include "tests/support/gpu.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

// Parts side by side, a matrix of near and one of far rows, two blocks, in no order. What lies far
// from every part stays as it was.
TEST(MirroredMemory, PartsAreCopiedAndNothingFarFromThem) {
  if (!GpuCall::Available()) GTEST_SKIP();
  auto device = MakeCudaAllocator(0);
  ASSERT_TRUE(IsOk(device));
  cuda::MirroredMemory memory(**device);
  const CudaStream stream;
  Tensor a;
  Tensor narrow;
  Tensor wide;
  Tensor other;
  constexpr int64_t kFar = 100'000;
  ASSERT_TRUE(IsOk(MakeTogether({{&a, DataType::kI32, {1000}},
                                 {&narrow, DataType::kI32, {20, 30}},
                                 {&wide, DataType::kI32, {7, kFar}}},
                                memory)));
  ASSERT_TRUE(IsOk(MakeTogether({{&other, DataType::kI32, {5}}}, memory)));
  // All of the GPU's is 0 first, as the host's is.
  memory.CopyToDevice(stream.get(), std::vector<Tensor>{a, narrow, wide, other});
  memory.CopyToDevice(stream.get(), {});
  stream.Synchronize();
  const auto fill = [](Tensor& tensor, int32_t first) {
    auto* values = static_cast<int32_t*>(tensor.raw());
    std::iota(values, values + tensor.num_elements(), first);
  };
  fill(a, 1);
  fill(narrow, 10'000);
  fill(wide, 1'000'000);
  fill(other, 5);
  memory.CopyToDevice(stream.get(), std::vector<Tensor>{wide.Columns(0, 9), other,
                                                        narrow.Columns(3, 4), a.Slice(10, 3)});
  stream.Synchronize();
  const auto there = [&](const Tensor& tensor) {
    std::vector<int32_t> values(static_cast<size_t>(tensor.num_elements()));
    CUDA_CHECK(cudaMemcpy(values.data(), memory.OnDevice(tensor).raw(), values.size() * 4,
                          cudaMemcpyDeviceToHost));
    return values;
  };
  const std::vector<int32_t> of_a = there(a);
  EXPECT_EQ(of_a[0], 0) << "copied, though before every part";
  for (int32_t i = 10; i < 13; ++i) EXPECT_EQ(of_a[static_cast<size_t>(i)], 1 + i);
  const std::vector<int32_t> of_narrow = there(narrow);
  for (int32_t r = 0; r < 20; ++r) {
    for (int32_t c = 3; c < 7; ++c) {
      EXPECT_EQ(of_narrow[static_cast<size_t>(r * 30 + c)], 10'000 + r * 30 + c);
    }
  }
  const std::vector<int32_t> of_wide = there(wide);
  for (int32_t r = 0; r < 7; ++r) {
    const auto* row = of_wide.data() + r * kFar;
    for (int32_t c = 0; c < 9; ++c) EXPECT_EQ(row[c], 1'000'000 + r * kFar + c);
    EXPECT_EQ(row[9], 0) << "copied, though far from its neighbours";
    EXPECT_EQ(row[kFar - 1], 0);
  }
  EXPECT_EQ(there(other), (std::vector<int32_t>{5, 6, 7, 8, 9}));
}

}  // namespace
}  // namespace penstock
