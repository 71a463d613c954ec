#include "core/kernels/remove_padding.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void RemovePadding(ThreadPool& pool, const Tensor& padded, const Tensor& offsets,
                   const Tensor& ragged) {
  const TensorWrapper<const float> in(padded);
  const TensorWrapper<const int32_t> offset(offsets);
  const TensorWrapper<float> tokens(ragged);
  const int64_t heads = padded.dim(1);
  const int64_t max_len = padded.dim(2);
  const int64_t width = padded.dim(3);
  PENSTOCK_CHECK_EQ(ragged.dim(0), offsets.dim(0));
  PENSTOCK_CHECK_EQ(ragged.dim(1), heads * width);
  pool.ParallelFor(ragged.dim(0), 32, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      PENSTOCK_CHECK_GE(offset[t], 0);
      PENSTOCK_CHECK_LT(offset[t] / max_len, padded.dim(0));
      const float* row = in.row(offset[t] / max_len) + offset[t] % max_len * width;
      for (int64_t head = 0; head < heads; ++head) {
        std::copy_n(row + head * max_len * width, width, tokens.row(t) + head * width);
      }
    }
  });
}

}  // namespace penstock::cpu
