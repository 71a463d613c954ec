#include "core/kernels/flash_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/check.h"
#include "core/tensor/tensor_wrapper.h"

namespace penstock::cpu {
namespace {

// Key (which = 0) or value (which = 1) of a position, as attention_args.h lays them out.
const float* KvRow(const AttentionArgs& args, int64_t row, int64_t position, int64_t which,
                   int64_t kv_head) {
  const TensorWrapper<const float> kv(args.kv);
  const TensorWrapper<const int32_t> tables(args.block_tables);
  const int64_t block_tokens = args.kv.dim(3);
  const int64_t block = tables.row(row)[position / block_tokens];
  return kv.row(block) +
         ((which * args.heads.num_kv_heads + kv_head) * block_tokens + position % block_tokens) *
             args.heads.head_dim;
}

}  // namespace

void FlashAttentionReference(ThreadPool& pool, const AttentionArgs& args) {
  const HeadLayout& heads = args.heads;
  const TensorWrapper<const float> qkv(args.qkv);
  const TensorWrapper<const int32_t> starts(args.row_starts);
  const TensorWrapper<const int32_t> lens(args.context_lens);
  const TensorWrapper<float> out(args.out);
  const int64_t group = heads.num_heads / heads.num_kv_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(heads.head_dim));
  PENSTOCK_CHECK_EQ(args.qkv.dim(1), heads.width());
  PENSTOCK_CHECK_EQ(args.out.dim(1), heads.q_size());
  pool.ParallelFor(args.context_lens.dim(0) * heads.num_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row = item / heads.num_heads;
      const int64_t head = item % heads.num_heads;
      for (int64_t t = starts[row]; t < starts[row + 1]; ++t) {
        const int64_t last = lens[row] - (starts[row + 1] - t);
        const int64_t first = args.FirstSeen(last);
        const float* q = qkv.row(t) + head * heads.head_dim;
        std::vector<float> scores(static_cast<size_t>(last - first + 1));
        for (int64_t p = first; p <= last; ++p) {
          const float* k = KvRow(args, row, p, 0, head / group);
          float dot = 0;
          for (int64_t i = 0; i < heads.head_dim; ++i) dot += q[i] * k[i];
          scores[static_cast<size_t>(p - first)] = dot * scale;
        }
        const float top = *std::max_element(scores.begin(), scores.end());
        float sum = 0;
        for (float& score : scores) sum += score = std::exp(score - top);
        float* result = out.row(t) + head * heads.head_dim;
        std::fill_n(result, heads.head_dim, 0.0f);
        for (int64_t p = first; p <= last; ++p) {
          const float* v = KvRow(args, row, p, 1, head / group);
          const float weight = scores[static_cast<size_t>(p - first)] / sum;
          for (int64_t i = 0; i < heads.head_dim; ++i) result[i] += weight * v[i];
        }
      }
    }
  });
}

}  // namespace penstock::cpu
