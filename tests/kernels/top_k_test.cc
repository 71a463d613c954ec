#include "core/kernels/top_k.h"

#include <algorithm>

#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

TEST(TopK, MatchesAFullSort) {
  const int64_t width = 1000;
  Tensor x = Random({3, width}, 1);
  // Many equal values: the lower index must come first.
  for (int64_t i = 0; i < width; ++i) {
    auto& value = static_cast<float*>(x.raw())[width + i];
    value = std::round(value);
  }
  for (int64_t k : {1, 2, 40, 999, 1000}) {
    const Tensor values = Poisoned({3, k});
    const Tensor indices = Make(DataType::kI32, {3, k});
    cpu::TopK(Pool(), x, values, indices);
    for (int64_t r = 0; r < 3; ++r) {
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
}

}  // namespace
}  // namespace penstock
