#include "cuda/mirrored_memory.h"

#include <gtest/gtest.h>

#include <numeric>

#include "cuda/cuda_allocator.h"
#include "cuda/stream.h"
#include "tests/support/gpu.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

// There and back: parts side by side, a matrix of near and one of far rows, two blocks, in no
// order. What lies far from every part stays as it was.
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
  const int64_t far = 100'000;
  ASSERT_TRUE(IsOk(MakeTogether({{&a, DataType::kI32, {1000}},
                                 {&narrow, DataType::kI32, {20, 30}},
                                 {&wide, DataType::kI32, {7, far}}},
                                memory)));
  ASSERT_TRUE(IsOk(MakeTogether({{&other, DataType::kI32, {5}}}, memory)));
  const auto fill = [](Tensor& tensor, int32_t first) {
    auto* values = static_cast<int32_t*>(tensor.raw());
    std::iota(values, values + tensor.num_elements(), first);
  };
  const std::vector<Tensor> parts = {wide.Columns(0, 9), other, narrow.Columns(3, 4),
                                     a.Slice(10, 3)};
  // All of the GPU's is 0 first, as the host's is.
  memory.CopyToDevice(stream.get(), std::vector<Tensor>{a, narrow, wide, other});
  stream.Synchronize();
  fill(a, 1);
  fill(narrow, 10'000);
  fill(wide, 1'000'000);
  fill(other, 5);
  memory.CopyToDevice(stream.get(), parts);
  stream.Synchronize();
  const auto clear = [](Tensor& tensor) {
    std::fill_n(static_cast<int32_t*>(tensor.raw()), tensor.num_elements(), -1);
  };
  for (Tensor* tensor : {&a, &narrow, &wide, &other}) clear(*tensor);
  memory.CopyToHost(stream.get(), parts);
  stream.Synchronize();
  const auto at = [](const Tensor& tensor, int64_t i) {
    return static_cast<const int32_t*>(tensor.raw())[i];
  };
  for (int64_t i = 10; i < 13; ++i) EXPECT_EQ(at(a, i), 1 + i);
  for (int64_t r = 0; r < 20; ++r) {
    for (int64_t c = 3; c < 7; ++c) EXPECT_EQ(at(narrow, r * 30 + c), 10'000 + r * 30 + c);
  }
  for (int64_t r = 0; r < 7; ++r) {
    for (int64_t c = 0; c < 9; ++c) EXPECT_EQ(at(wide, r * far + c), 1'000'000 + r * far + c);
    EXPECT_EQ(at(wide, r * far + 9), -1) << "copied back, though far from its neighbours";
    EXPECT_EQ(at(wide, r * far + far - 1), -1);
  }
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(at(other, i), 5 + i);
  EXPECT_EQ(at(a, 0), -1);
  memory.CopyToHost(stream.get(), {});
  memory.CopyToHost(stream.get(), std::vector<Tensor>{wide});
  stream.Synchronize();
  EXPECT_EQ(at(wide, 9), 0) << "copied there, though far from its neighbours";
}

}  // namespace
}  // namespace penstock
