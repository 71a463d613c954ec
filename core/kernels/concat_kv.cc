#include "core/kernels/concat_kv.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void ConcatKv(ThreadPool& pool, const Tensor& qkv, const Tensor& kv_slots, const HeadLayout& heads,
              const Tensor& kv) {
  const TensorWrapper<const float> rows(qkv);
  const TensorWrapper<const int64_t> slot(kv_slots);
  const TensorWrapper<float> blocks(kv);
  const int64_t block_tokens = kv.dim(3);
  const int64_t head_stride = block_tokens * heads.head_dim;
  PENSTOCK_CHECK_EQ(qkv.dim(1), heads.width());
  PENSTOCK_CHECK_EQ(kv_slots.dim(0), qkv.dim(0));
  PENSTOCK_CHECK_EQ(kv.dim(2), heads.num_kv_heads);
  PENSTOCK_CHECK_EQ(kv.dim(4), heads.head_dim);
  pool.ParallelFor(qkv.dim(0), 32, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      PENSTOCK_CHECK_GE(slot[t], 0);
      PENSTOCK_CHECK_LT(slot[t] / block_tokens, kv.dim(0));
      const float* keys = rows.row(t) + heads.q_size();
      float* place = blocks.row(slot[t] / block_tokens) + slot[t] % block_tokens * heads.head_dim;
      // The K heads, then the V heads: 2 * num_kv_heads runs, as they lie in the row.
      for (int64_t run = 0; run < 2 * heads.num_kv_heads; ++run) {
        std::copy_n(keys + run * heads.head_dim, heads.head_dim, place + run * head_stride);
      }
    }
  });
}

}  // namespace penstock::cpu
