#include "core/kernels/swiglu.h"

#include <cmath>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void SwigluReference(ThreadPool& pool, const Tensor& gate_up, const Tensor& out) {
  const TensorWrapper<const float> in(gate_up);
  const TensorWrapper<float> result(out);
  const int64_t width = out.dim(1);
  PENSTOCK_CHECK_EQ(gate_up.dim(1), 2 * width);
  PENSTOCK_CHECK_EQ(gate_up.dim(0), out.dim(0));
  pool.ParallelFor(out.dim(0), 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* gate = in.row(t);
      const float* up = gate + width;
      for (int64_t i = 0; i < width; ++i) {
        result.row(t)[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
      }
    }
  });
}

}  // namespace penstock::cpu
