#include "core/kernels/sgemm.h"

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void SgemmReference(ThreadPool& pool, float alpha, const Tensor& a, const Tensor& b, float beta,
                    const Tensor& c) {
  const TensorWrapper<const float> left(a);
  const TensorWrapper<const float> right(b);
  const TensorWrapper<float> out(c);
  PENSTOCK_CHECK_EQ(a.dim(0), c.dim(0));
  PENSTOCK_CHECK_EQ(a.dim(1), b.dim(0));
  PENSTOCK_CHECK_EQ(b.dim(1), c.dim(1));
  pool.ParallelFor(c.dim(0), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < c.dim(1); ++j) {
        float sum = 0;
        for (int64_t k = 0; k < a.dim(1); ++k) sum += left.row(i)[k] * right.row(k)[j];
        const float old = beta == 0.0f ? 0.0f : beta * out.row(i)[j];
        out.row(i)[j] = alpha * sum + old;
      }
    }
  });
}

}  // namespace penstock::cpu
