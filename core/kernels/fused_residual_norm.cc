#include "core/kernels/fused_residual_norm.h"

#include "core/base/check.h"
#include "core/kernels/rms_norm.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void FusedResidualNorm(ThreadPool& pool, const Tensor& residual, const Tensor& x,
                       const Tensor& bias, const Tensor& weight, float eps, const Tensor& out) {
  const TensorWrapper<float> sum(residual);
  const TensorWrapper<const float> in(x);
  const TensorWrapper<const float> gain(weight);
  const TensorWrapper<float> result(out);
  const int64_t hidden = x.dim(1);
  PENSTOCK_CHECK(residual.shape() == x.shape());
  PENSTOCK_CHECK(out.shape() == x.shape());
  PENSTOCK_CHECK_EQ(weight.dim(0), hidden);
  const float* shift = nullptr;
  if (!bias.empty()) {
    PENSTOCK_CHECK_EQ(bias.dim(0), hidden);
    shift = TensorWrapper<const float>(bias).data();
  }
  pool.ParallelFor(x.dim(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = sum.row(t);
      const float* added = in.row(t);
      for (int64_t i = 0; i < hidden; ++i) row[i] += added[i];
      if (shift != nullptr) {
        for (int64_t i = 0; i < hidden; ++i) row[i] += shift[i];
      }
      RmsNormRow(row, gain.data(), hidden, eps, result.row(t));
    }
  });
}

}  // namespace penstock::cpu
