#include "core/kernels/top_k.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

namespace {

struct Candidate {
  float value;
  int32_t index;
};

bool Larger(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.index < b.index);
}

}  // namespace

// One pass: what beats the k-th best so far is gathered, and cut down to the k best whenever as
// many again have come. Soon hardly anything does.
std::span<const int32_t> TopKRow(std::span<const float> row, int64_t k) {
  static thread_local std::vector<Candidate> best;  // grow once, to the largest k and its room
  static thread_local std::vector<int32_t> order;
  PENSTOCK_CHECK_GT(k, 0);
  PENSTOCK_CHECK_LE(k, static_cast<int64_t>(row.size()));
  const auto keep = static_cast<size_t>(k);
  const size_t room = keep + std::max<size_t>(keep, 256);
  const auto cut = [&] {
    std::nth_element(best.begin(), best.begin() + k - 1, best.end(), Larger);
    best.resize(keep);
  };
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  best.clear();
  float bar = kLowest;
  bool full = false;  // k are held that nothing at or below the bar can replace
  for (size_t i = 0; i < row.size(); ++i) {
    if (full && !(row[i] > bar)) continue;
    best.push_back({std::isnan(row[i]) ? kLowest : row[i], static_cast<int32_t>(i)});
    if (best.size() < room) continue;
    cut();
    bar = best.back().value;
    full = true;
  }
  if (best.size() > keep) cut();
  std::sort(best.begin(), best.end(), Larger);
  order.resize(keep);
  for (size_t i = 0; i < keep; ++i) order[i] = best[i].index;
  return order;
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
