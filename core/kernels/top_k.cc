#include "core/kernels/top_k.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

std::span<const int32_t> TopKRow(std::span<const float> row, int64_t k) {
  static thread_local std::vector<int32_t> order;  // grows once, to the vocabulary
  PENSTOCK_CHECK_GT(k, 0);
  PENSTOCK_CHECK_LE(k, static_cast<int64_t>(row.size()));
  order.resize(row.size());
  std::iota(order.begin(), order.end(), 0);
  const auto larger = [row](int32_t a, int32_t b) {
    const float x = row[static_cast<size_t>(a)];
    const float y = row[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  // Selecting first and sorting the few is faster than a heap over the whole row.
  if (k < static_cast<int64_t>(row.size())) {
    std::nth_element(order.begin(), order.begin() + k, order.end(), larger);
  }
  std::sort(order.begin(), order.begin() + k, larger);
  return {order.data(), static_cast<size_t>(k)};
}

void TopK(ThreadPool& pool, const Tensor& x, const Tensor& values, const Tensor& indices) {
  const TensorWrapper<const float> in(x);
  const TensorWrapper<float> best(values);
  const TensorWrapper<int32_t> place(indices);
  const int64_t k = values.dim(1);
  PENSTOCK_CHECK(indices.shape() == values.shape());
  PENSTOCK_CHECK_EQ(values.dim(0), x.dim(0));
  pool.ParallelFor(x.dim(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const std::span<const float> row(in.row(r), static_cast<size_t>(x.dim(1)));
      const std::span<const int32_t> order = TopKRow(row, k);
      for (int64_t i = 0; i < k; ++i) {
        const int32_t index = order[static_cast<size_t>(i)];
        place.row(r)[i] = index;
        best.row(r)[i] = row[static_cast<size_t>(index)];
      }
    }
  });
}

}  // namespace penstock::cpu
