#include "core/tensor/tensor.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <vector>

#include "core/tensor/dequantize.h"
#include "core/tensor/tensor_map.h"
#include "core/tensor/tensor_wrapper.h"
#include "tests/support/status_matchers.h"

// Sanitizers end the program on an allocation that cannot be met unless told to return null, which
// is what is tested here.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }
extern "C" const char* __tsan_default_options() { return "allocator_may_return_null=1"; }

namespace penstock {
namespace {

// [rows, columns] of float32 counting from 0, over `values`.
Tensor Counting(std::vector<float>& values, int64_t rows, int64_t columns) {
  values.resize(static_cast<size_t>(rows * columns));
  std::iota(values.begin(), values.end(), 0.0f);
  return Tensor::Borrow(values.data(), DataType::kF32, {rows, columns});
}

TEST(ShapeTest, CountsComparesAndPrints) {
  const Shape shape = {3, 4, 5};
  EXPECT_EQ(shape.rank(), 3);
  EXPECT_EQ(shape.num_elements(), 60);
  EXPECT_EQ(shape.ToString(), "[3, 4, 5]");
  EXPECT_EQ(Shape().ToString(), "[]");
  EXPECT_TRUE(shape == Shape({3, 4, 5}));
  EXPECT_FALSE(shape == Shape({3, 4}));
  EXPECT_FALSE(shape == Shape({3, 4, 6}));
}

TEST(ShapeTest, MoreThanSixDimensionsDie) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(Shape({1, 1, 1, 1, 1, 1, 1}), "CHECK failed");
}

TEST(TensorTest, MakeOwnsAlignedBytesAndGivesThemBack) {
  HostAllocator allocator;
  {
    const auto tensor = Tensor::Make(DataType::kF32, {3, 5}, allocator);
    ASSERT_TRUE(IsOk(tensor));
    EXPECT_EQ(tensor->bytes(), 60);
    EXPECT_EQ(tensor->device(), Device::kCpu);
    EXPECT_FALSE(tensor->empty());
    EXPECT_TRUE(tensor->is_contiguous());
    EXPECT_EQ(tensor->stride(0), 5);
    EXPECT_EQ(tensor->stride(1), 1);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor->raw()) % HostAllocator::kAlignment, 0u);
    const Tensor copy = *tensor;
    EXPECT_EQ(copy.raw(), tensor->raw());
    EXPECT_EQ(allocator.bytes_in_use(), 60);
  }
  EXPECT_EQ(allocator.bytes_in_use(), 0);
  EXPECT_TRUE(Tensor().empty());
}

TEST(TensorTest, BytesOfBlockTypes) {
  EXPECT_EQ(*TensorBytes(DataType::kQ4_1, {576, 576}), 576 * 576 / 32 * 20);
  EXPECT_EQ(*TensorBytes(DataType::kQ8_0, {2, 64}), 2 * 2 * 34);
  EXPECT_EQ(*TensorBytes(DataType::kBF16, {7}), 14);
  EXPECT_TRUE(Fails(TensorBytes(DataType::kQ4_1, {64, 33}), absl::StatusCode::kInvalidArgument,
                    {"[64, 33]", "q4_1", "32"}));
}

TEST(TensorTest, ShapesThatHoldNothingOrTooMuchAreRefused) {
  HostAllocator allocator;
  const int64_t huge = int64_t{1} << 32;
  for (const Shape& shape :
       {Shape({0}), Shape({4, 0}), Shape({-1}), Shape({-2, -3}), Shape(), Shape({huge, huge}),
        Shape({INT64_MAX}), Shape({(int64_t{1} << 61) + 1, 4})}) {
    EXPECT_TRUE(Fails(Tensor::Make(DataType::kF32, shape, allocator),
                      absl::StatusCode::kInvalidArgument, {shape.ToString()}));
  }
  EXPECT_EQ(allocator.bytes_in_use(), 0);
}

TEST(TensorTest, SliceIsAViewOfRows) {
  std::vector<float> values;
  const Tensor tensor = Counting(values, 4, 3);
  const Tensor slice = tensor.Slice(1, 2);
  EXPECT_EQ(slice.shape(), Shape({2, 3}));
  EXPECT_EQ(slice.raw(), values.data() + 3);
  EXPECT_EQ(slice.Slice(1, 1).raw(), values.data() + 6);
  EXPECT_EQ(tensor.Slice(4, 0).num_elements(), 0);
}

TEST(TensorTest, SliceOfBlockRows) {
  std::vector<BlockQ4_1> blocks(6);
  const Tensor tensor = Tensor::Borrow(blocks.data(), DataType::kQ4_1, {3, 64});
  EXPECT_EQ(tensor.Slice(2, 1).raw(), blocks.data() + 4);
  EXPECT_EQ(tensor.Slice(2, 1).bytes(), 40);
}

TEST(TensorTest, SliceOutsideTheBoundsDies) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::vector<float> values;
  const Tensor tensor = Counting(values, 4, 3);
  EXPECT_DEATH(tensor.Slice(3, 2), "CHECK failed");
  EXPECT_DEATH(tensor.Slice(-1, 1), "CHECK failed");
}

TEST(TensorTest, ReshapeKeepsTheBytesAlive) {
  HostAllocator allocator;
  Tensor reshaped;
  {
    auto tensor = Tensor::Make(DataType::kI32, {6, 4}, allocator);
    ASSERT_TRUE(IsOk(tensor));
    reshaped = tensor->Reshape({2, 3, 4});
  }
  EXPECT_EQ(allocator.bytes_in_use(), 96);
  EXPECT_EQ(reshaped.stride(0), 12);
  EXPECT_EQ(reshaped.stride(1), 4);
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(reshaped.Reshape({5, 5}), "CHECK failed");
}

TEST(TensorWrapperTest, ReadsAndWritesTyped) {
  std::vector<float> values;
  const Tensor tensor = Counting(values, 4, 3);
  const TensorWrapper<const float> read(tensor);
  EXPECT_EQ(read.row(2)[1], 7.0f);
  EXPECT_EQ(read[11], 11.0f);
  EXPECT_EQ(read.dim(0), 4);
  EXPECT_EQ(read.shape(), tensor.shape());
  TensorWrapper<float>(tensor).row(3)[0] = -1.0f;
  EXPECT_EQ(values[9], -1.0f);
}

TEST(TensorWrapperTest, AnotherElementTypeDies) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::vector<float> values;
  const Tensor tensor = Counting(values, 2, 2);
  EXPECT_DEATH(TensorWrapper<int32_t>{tensor}, "f32 vs i32");
  EXPECT_DEATH(TensorWrapper<const uint8_t>{tensor}, "f32 vs u8");
}

TEST(TensorMapTest, KeepsTensorsUnderNames) {
  std::vector<float> values;
  TensorMap map;
  ASSERT_TRUE(IsOk(map.Insert("b", Counting(values, 2, 2))));
  ASSERT_TRUE(IsOk(map.Insert("a", Tensor::Borrow(values.data(), DataType::kF32, {4}))));
  EXPECT_TRUE(Fails(map.Insert("b", Tensor()), absl::StatusCode::kAlreadyExists, {"'b'"}));
  EXPECT_EQ(map.size(), 2);
  EXPECT_EQ(map.bytes(), 32);
  EXPECT_EQ(map.begin()->first, "a");
  EXPECT_TRUE(map.Contains("b"));
  EXPECT_FALSE(map.Contains("c"));
  EXPECT_EQ(map.Get("b")->shape(), Shape({2, 2}));
  EXPECT_TRUE(Fails(map.Get("c"), absl::StatusCode::kNotFound, {"'c'"}));
}

TEST(HostAllocatorTest, MoreThanThereIsIsRefusedWithTheAmount) {
  HostAllocator allocator;
  for (const int64_t bytes : {INT64_MAX, INT64_MAX - 63, int64_t{1} << 62}) {
    EXPECT_TRUE(Fails(allocator.Allocate(bytes), absl::StatusCode::kResourceExhausted,
                      {std::to_string(bytes)}));
  }
  EXPECT_TRUE(Fails(Tensor::Make(DataType::kU8, {int64_t{1} << 62}, allocator),
                    absl::StatusCode::kResourceExhausted, {"out of host memory"}));
  EXPECT_EQ(allocator.bytes_in_use(), 0);
}

TEST(HostAllocatorTest, AskingForNothingDies) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  HostAllocator allocator;
  EXPECT_DEATH((void)allocator.Allocate(0), "CHECK failed");
}

TEST(TensorTest, TensorsMadeTogetherLieInOneBlock) {
  HostAllocator allocator;
  {
    Tensor bytes;
    Tensor longs;
    Tensor none;
    ASSERT_TRUE(IsOk(
        MakeTogether({{&bytes, DataType::kU8, {3, 5}}, {&longs, DataType::kI64, {7}}}, allocator)));
    EXPECT_EQ(bytes.shape(), Shape({3, 5}));
    EXPECT_EQ(longs.type(), DataType::kI64);
    EXPECT_EQ(static_cast<uint8_t*>(bytes.raw()) + 64, longs.raw());
    EXPECT_EQ(allocator.bytes_in_use(), 128);
    EXPECT_FALSE(MakeTogether({{&none, DataType::kU8, {0}}}, allocator).ok());
    EXPECT_FALSE(
        MakeTogether({{&none, DataType::kU8, {INT64_MAX}}, {&none, DataType::kU8, {INT64_MAX}}},
                     allocator)
            .ok());
  }
  EXPECT_EQ(allocator.bytes_in_use(), 0);
}

TEST(TensorTest, ColumnsKeepTheRowsStride) {
  std::vector<float> values(12);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const Tensor matrix = Tensor::Borrow(values.data(), DataType::kF32, {3, 4});
  const Tensor columns = matrix.Columns(1, 2);
  EXPECT_EQ(columns.shape(), Shape({3, 2}));
  EXPECT_EQ(columns.stride(0), 4);
  EXPECT_FALSE(columns.is_contiguous());
  EXPECT_EQ(TensorWrapper<const float>(columns).row(2)[1], 10.0f);
  EXPECT_DEATH(matrix.Columns(3, 2), "first \\+ count <= dim\\(1\\)");
}

}  // namespace
}  // namespace penstock
