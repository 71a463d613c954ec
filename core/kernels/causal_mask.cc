#include "core/kernels/causal_mask.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void CausalMask(ThreadPool& pool, const Tensor& row_starts, const Tensor& context_lens,
                int64_t window, const Tensor& mask) {
  const TensorWrapper<const int32_t> starts(row_starts);
  const TensorWrapper<const int32_t> lens(context_lens);
  const TensorWrapper<uint8_t> out(mask);
  const int64_t rows = mask.dim(0);
  const int64_t max_q = mask.dim(1);
  const int64_t max_k = mask.dim(2);
  PENSTOCK_CHECK_EQ(row_starts.dim(0), rows + 1);
  PENSTOCK_CHECK_EQ(context_lens.dim(0), rows);
  PENSTOCK_CHECK_GE(window, kNoWindow);
  pool.ParallelFor(rows * max_q, 32, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t r = item / max_q;
      const int64_t i = item % max_q;
      const int64_t length = starts[r + 1] - starts[r];
      PENSTOCK_CHECK_LE(length, max_q);
      PENSTOCK_CHECK_LE(length, lens[r]);
      PENSTOCK_CHECK_LE(lens[r], max_k);
      uint8_t* seen = out.row(r) + i * max_k;
      std::fill_n(seen, max_k, uint8_t{0});
      if (i >= length) continue;
      const int64_t last = lens[r] - length + i + 1;
      const int64_t first = window == kNoWindow ? 0 : std::max<int64_t>(last - window, 0);
      std::fill(seen + first, seen + last, uint8_t{1});
    }
  });
}

}  // namespace penstock::cpu
