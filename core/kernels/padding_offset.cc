#include "core/kernels/padding_offset.h"

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void PaddingOffset(ThreadPool& pool, const Tensor& row_starts, int64_t max_len,
                   const Tensor& offsets) {
  const TensorWrapper<const int32_t> starts(row_starts);
  const TensorWrapper<int32_t> place(offsets);
  const int64_t rows = row_starts.dim(0) - 1;
  PENSTOCK_CHECK_EQ(offsets.dim(0), starts[rows] - starts[0]);
  PENSTOCK_CHECK_LE(rows * max_len, INT32_MAX);
  pool.ParallelFor(rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t length = starts[r + 1] - starts[r];
      PENSTOCK_CHECK_LE(length, max_len);
      for (int64_t i = 0; i < length; ++i) {
        place[starts[r] - starts[0] + i] = static_cast<int32_t>(r * max_len + i);
      }
    }
  });
}

}  // namespace penstock::cpu
