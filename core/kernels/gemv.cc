#include "core/kernels/gemv.h"

#include <vector>

#include "core/base/check.h"
#include "core/tensor/dequantize.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void GemvReference(ThreadPool& pool, const Tensor& weight, const Tensor& x, const Tensor& y) {
  const TensorWrapper<const float> in(x);
  const TensorWrapper<float> out(y);
  const int64_t features = weight.dim(1);
  PENSTOCK_CHECK_EQ(x.dim(0), features);
  PENSTOCK_CHECK_EQ(y.dim(0), weight.dim(0));
  pool.ParallelFor(weight.dim(0), 16, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(features));
    for (int64_t n = begin; n < end; ++n) {
      Dequantize(weight.type(), weight.Slice(n, 1).raw(), features, row.data());
      float sum = 0;
      for (int64_t k = 0; k < features; ++k) sum += row[static_cast<size_t>(k)] * in[k];
      out[n] = sum;
    }
  });
}

}  // namespace penstock::cpu
