#include "core/kernels/rebuild_padding.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void RebuildPadding(ThreadPool& pool, const Tensor& ragged, const Tensor& row_starts,
                    const Tensor& padded) {
  const TensorWrapper<const float> tokens(ragged);
  const TensorWrapper<const int32_t> starts(row_starts);
  const TensorWrapper<float> out(padded);
  const int64_t rows = padded.dim(0);
  const int64_t heads = padded.dim(1);
  const int64_t max_len = padded.dim(2);
  const int64_t width = padded.dim(3);
  PENSTOCK_CHECK_EQ(row_starts.dim(0), rows + 1);
  PENSTOCK_CHECK_EQ(ragged.dim(0), starts[rows] - starts[0]);
  PENSTOCK_CHECK_EQ(ragged.dim(1), heads * width);
  pool.ParallelFor(rows * max_len, 32, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t r = item / max_len;
      const int64_t i = item % max_len;
      const int64_t length = starts[r + 1] - starts[r];
      PENSTOCK_CHECK_LE(length, max_len);
      for (int64_t head = 0; head < heads; ++head) {
        float* place = out.row(r) + (head * max_len + i) * width;
        if (i < length) {
          std::copy_n(tokens.row(starts[r] - starts[0] + i) + head * width, width, place);
        } else {
          std::fill_n(place, width, 0.0f);
        }
      }
    }
  });
}

}  // namespace penstock::cpu
