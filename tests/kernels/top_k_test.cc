#include "core/kernels/top_k.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/support/backends.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

void RunOn(Backend backend, const Tensor& x, const Tensor& values, const Tensor& indices) {
  if (backend == Backend::kCpu) return cpu::TopK(Pool(), x, values, indices);
  if constexpr (kCudaBuilt) {
    const GpuCall gpu;
    cuda::LaunchTopK(gpu.stream(), gpu.In(x), gpu.Out(values), gpu.Out(indices));
  }
}

// Rows with values of their own, with many equal ones, with one value only, with both zeros.
Tensor Rows(int64_t width, int64_t count = 4) {
  Tensor x = Random({count, width}, 1);
  auto* values = static_cast<float*>(x.raw());
  for (int64_t i = 0; i < width; ++i) {
    values[width + i] = std::round(values[width + i]);
    values[2 * width + i] = -1.5f;
    values[3 * width + i] = i % 3 == 0 ? 0.0f : -0.0f;
  }
  return x;
}

void CheckAgainstFullSort(Backend backend, int64_t width, int64_t k) {
  const Tensor x = Rows(width);
  const Tensor values = Poisoned({4, k});
  const Tensor indices = Poisoned({4, k}, DataType::kI32);
  RunOn(backend, x, values, indices);
  for (int64_t r = 0; r < 4; ++r) {
    const std::vector<float> row = ToVector(x.Slice(r, 1));
    std::vector<int32_t> order(static_cast<size_t>(width));
    for (int32_t i = 0; i < width; ++i) order[static_cast<size_t>(i)] = i;
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return row[static_cast<size_t>(a)] > row[static_cast<size_t>(b)];
    });
    for (int64_t i = 0; i < k; ++i) {
      const int32_t index = static_cast<const int32_t*>(indices.raw())[r * k + i];
      ASSERT_EQ(index, order[static_cast<size_t>(i)]) << "row " << r << " place " << i;
      ASSERT_EQ(static_cast<const float*>(values.raw())[r * k + i],
                row[static_cast<size_t>(index)]);
    }
  }
}

TEST(TopK, MatchesAFullSort) {
  for (const Backend backend : Backends()) {
    for (int64_t k : {1, 2, 40, 999, 1000}) CheckAgainstFullSort(backend, 1000, k);
    for (int64_t k : {1, 50, 4096, 4097, 9999}) CheckAgainstFullSort(backend, 9999, k);
    CheckAgainstFullSort(backend, 1, 1);
  }
}

// A GPU gives a row to one block, two or eight, by how many rows there are.
TEST(TopK, MatchesAFullSortInABatchOfAnySize) {
  constexpr int64_t kWidth = 20000;
  constexpr int64_t kTop = 60;
  for (const int64_t count : {30, 100, 300}) {
    const Tensor x = Rows(kWidth, count);
    const Tensor expected = Poisoned({count, kTop}, DataType::kI32);
    cpu::TopK(Pool(), x, Poisoned({count, kTop}), expected);
    for (const Backend backend : Backends()) {
      const Tensor indices = Poisoned({count, kTop}, DataType::kI32);
      RunOn(backend, x, Poisoned({count, kTop}), indices);
      EXPECT_EQ(std::memcmp(indices.raw(), expected.raw(), static_cast<size_t>(expected.bytes())),
                0)
          << count;
    }
  }
}

TEST(TopK, NanCountsAsTheLowest) {
  std::vector<float> row = {NAN, 1, -NAN, -2, -INFINITY, 3};
  const Tensor x = FromVector(row).Reshape({1, 6});
  for (const Backend backend : Backends()) {
    const Tensor indices = Poisoned({1, 4}, DataType::kI32);
    RunOn(backend, x, Poisoned({1, 4}), indices);
    const auto* order = static_cast<const int32_t*>(indices.raw());
    EXPECT_EQ(std::vector<int32_t>(order, order + 4), (std::vector<int32_t>{5, 1, 3, 0}));
  }
}

}  // namespace
}  // namespace penstock
