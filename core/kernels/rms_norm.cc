#include "core/kernels/rms_norm.h"

#include <cmath>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void RmsNormRow(const float* x, const float* weight, int64_t hidden, float eps, float* out) {
  constexpr int64_t kLanes = 16;  // independent sums, so that the compiler can use vectors
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= hidden; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane] * x[i + lane];
  }
  for (; i < hidden; ++i) lanes[i % kLanes] += x[i] * x[i];
  float sum = 0;
  for (float lane : lanes) sum += lane;
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(hidden) + eps);
  for (i = 0; i < hidden; ++i) out[i] = x[i] * scale * weight[i];
}

void RmsNorm(ThreadPool& pool, const Tensor& x, const Tensor& weight, float eps,
             const Tensor& out) {
  const TensorWrapper<const float> in(x);
  const TensorWrapper<const float> gain(weight);
  const TensorWrapper<float> result(out);
  PENSTOCK_CHECK_EQ(x.dim(1), weight.dim(0));
  PENSTOCK_CHECK(out.shape() == x.shape());
  pool.ParallelFor(x.dim(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      RmsNormRow(in.row(t), gain.data(), x.dim(1), eps, result.row(t));
    }
  });
}

}  // namespace penstock::cpu
