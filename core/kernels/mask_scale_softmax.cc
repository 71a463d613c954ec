#include "core/kernels/mask_scale_softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {
namespace {

void SoftmaxRow(const uint8_t* seen, int64_t count, float scale, float* scores) {
  float top = -std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < count; ++j) {
    if (seen[j] != 0) top = std::max(top, scores[j] * scale);
  }
  float sum = 0;
  for (int64_t j = 0; j < count; ++j) {
    if (seen[j] != 0) {
      sum += scores[j] = std::exp(scores[j] * scale - top);
    } else {
      scores[j] = 0;
    }
  }
  if (sum == 0) return;  // a query that sees nothing; whoever sees something has exp(0) in its sum
  const float inverse = 1.0f / sum;
  for (int64_t j = 0; j < count; ++j) {
    if (seen[j] != 0) scores[j] *= inverse;
  }
}

}  // namespace

void MaskScaleSoftmax(ThreadPool& pool, const Tensor& scores, const Tensor& mask, float scale) {
  const TensorWrapper<float> values(scores);
  const TensorWrapper<const uint8_t> seen(mask);
  const int64_t heads = scores.dim(1);
  const int64_t max_q = scores.dim(2);
  const int64_t max_k = scores.dim(3);
  PENSTOCK_CHECK(mask.shape() == Shape({scores.dim(0), max_q, max_k}));
  PENSTOCK_CHECK_GT(scale, 0.0f);
  pool.ParallelFor(scores.dim(0) * heads * max_q, 8, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t query = item % max_q;
      const int64_t row = item / max_q / heads;
      SoftmaxRow(seen.row(row) + query * max_k, max_k, scale, values.data() + item * max_k);
    }
  });
}

}  // namespace penstock::cpu
