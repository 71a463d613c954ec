#include "core/kernels/repeat_kv.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {

void RepeatKv(ThreadPool& pool, const Tensor& kv, const Tensor& block_tables,
              const Tensor& context_lens, const HeadLayout& heads, const Tensor& keys,
              const Tensor& values) {
  const TensorWrapper<const float> blocks(kv);
  const TensorWrapper<const int32_t> tables(block_tables);
  const TensorWrapper<const int32_t> lens(context_lens);
  const TensorWrapper<float> out[] = {TensorWrapper<float>(keys), TensorWrapper<float>(values)};
  const int64_t rows = keys.dim(0);
  const int64_t max_k = keys.dim(2);
  const int64_t block_tokens = kv.dim(3);
  const int64_t group = heads.num_heads / heads.num_kv_heads;
  PENSTOCK_CHECK(keys.shape() == Shape({rows, heads.num_heads, max_k, heads.head_dim}));
  PENSTOCK_CHECK(values.shape() == keys.shape());
  PENSTOCK_CHECK_EQ(context_lens.dim(0), rows);
  PENSTOCK_CHECK_EQ(block_tables.dim(0), rows);
  PENSTOCK_CHECK_EQ(kv.dim(2), heads.num_kv_heads);
  PENSTOCK_CHECK_EQ(kv.dim(4), heads.head_dim);
  // An item is one head's keys or values of one row: whole runs of a block are copied.
  pool.ParallelFor(rows * heads.num_heads * 2, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t which = item % 2;
      const int64_t head = item / 2 % heads.num_heads;
      const int64_t row = item / 2 / heads.num_heads;
      const int64_t context = lens[row];
      PENSTOCK_CHECK_LE(context, max_k);
      PENSTOCK_CHECK_LE(context, block_tables.dim(1) * block_tokens);
      float* place = out[which].row(row) + head * max_k * heads.head_dim;
      for (int64_t j = 0; j < context; j += block_tokens) {
        const int64_t block = tables.row(row)[j / block_tokens];
        PENSTOCK_CHECK_GE(block, 0);
        PENSTOCK_CHECK_LT(block, kv.dim(0));
        const float* run = blocks.row(block) + (which * heads.num_kv_heads + head / group) *
                                                   block_tokens * heads.head_dim;
        std::copy_n(run, std::min(block_tokens, context - j) * heads.head_dim,
                    place + j * heads.head_dim);
      }
      std::fill(place + context * heads.head_dim, place + max_k * heads.head_dim, 0.0f);
    }
  });
}

}  // namespace penstock::cpu
