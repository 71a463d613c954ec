#include "core/kernels/linear.h"

#include <vector>

#include "core/base/check.h"
#include "core/tensor/dequantize.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void LinearReference(ThreadPool& pool, const Tensor& x, const Tensor& weight, const Tensor& out) {
  const TensorWrapper<const float> in(x);
  const TensorWrapper<float> result(out);
  const int64_t features = x.dim(1);
  PENSTOCK_CHECK_EQ(weight.dim(1), features);
  PENSTOCK_CHECK_EQ(out.dim(0), x.dim(0));
  PENSTOCK_CHECK_EQ(out.dim(1), weight.dim(0));
  pool.ParallelFor(weight.dim(0), 16, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(features));
    for (int64_t n = begin; n < end; ++n) {
      Dequantize(weight.type(), weight.Slice(n, 1).raw(), features, row.data());
      for (int64_t t = 0; t < x.dim(0); ++t) {
        const float* token = in.row(t);
        float sum = 0;
        for (int64_t k = 0; k < features; ++k) sum += token[k] * row[static_cast<size_t>(k)];
        result.row(t)[n] = sum;
      }
    }
  });
}

}  // namespace penstock::cpu
