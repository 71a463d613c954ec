// The vector version of flash_attention, compiled once for each instruction set by Highway.
#include <cmath>

#include "core/base/check.h"
#include "core/kernels/flash_attention.h"
#include "core/tensor/tensor_wrapper.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/flash_attention_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "core/kernels/attention_tile-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace penstock::cpu::HWY_NAMESPACE {

// The query heads of one KV head, for the tokens [begin, end) of sequence `row`.
void AttendChunk(const AttentionArgs& args, int64_t row, int64_t kv_head, int64_t begin,
                 int64_t end) {
  const HeadLayout& heads = args.heads;
  const int64_t head_dim = heads.head_dim;
  const int64_t group = heads.num_heads / heads.num_kv_heads;
  const TensorWrapper<const float> qkv(args.qkv);
  const TensorWrapper<const float> kv(args.kv);
  const TensorWrapper<const int32_t> starts(args.row_starts);
  const TensorWrapper<const int32_t> table(args.block_tables);
  const TensorWrapper<float> out(args.out);
  const int64_t context = TensorWrapper<const int32_t>(args.context_lens)[row];
  const int64_t row_end = starts[row + 1];
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const int64_t kv_stride = kTileTokens * head_dim;

  for (int64_t g = 0; g < group; ++g) {
    const int64_t column = (kv_head * group + g) * head_dim;
    HWY_ALIGN float q[kFlashChunkTokens][kMaxHeadDim];
    OnlineSoftmax state[kFlashChunkTokens];
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t i = 0; i < head_dim; ++i) q[t - begin][i] = qkv.row(t)[column + i] * scale;
      std::fill_n(out.row(t) + column, head_dim, 0.0f);
    }
    // Positions of the chunk's first and last token.
    const int64_t first = context - (row_end - begin);
    const int64_t last = context - (row_end - (end - 1));
    for (int64_t tile = args.FirstSeen(first) / kTileTokens; tile * kTileTokens <= last; ++tile) {
      const float* keys = kv.row(table.row(row)[tile]) + kv_head * kv_stride;
      const float* values = keys + heads.num_kv_heads * kv_stride;
      for (int64_t t = begin; t < end; ++t) {
        const TileRange seen = SeenOf(args, context - (row_end - t), tile);
        if (seen.count <= 0) continue;
        AttendTile(q[t - begin], keys + seen.first * head_dim, values + seen.first * head_dim,
                   seen.count, head_dim, state[t - begin], out.row(t) + column);
      }
    }
    for (int64_t t = begin; t < end; ++t) {
      const float inverse = 1.0f / state[t - begin].total;
      for (int64_t i = 0; i < head_dim; ++i) out.row(t)[column + i] *= inverse;
    }
  }
}

}  // namespace penstock::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace penstock::cpu {

HWY_EXPORT(AttendChunk);

void FlashAttention(ThreadPool& pool, const AttentionArgs& args) {
  const HeadLayout& heads = args.heads;
  const TensorWrapper<const int32_t> starts(args.row_starts);
  PENSTOCK_CHECK_EQ(args.qkv.dim(1), heads.width());
  PENSTOCK_CHECK_EQ(args.out.dim(1), heads.q_size());
  PENSTOCK_CHECK_EQ(args.kv.dim(3), kAttentionTile);
  PENSTOCK_CHECK_LE(heads.head_dim, kMaxHeadDim);
  PENSTOCK_CHECK_GE(args.window, kNoWindow);
  for (int64_t row = 0; row < args.context_lens.dim(0); ++row) {
    const int64_t tokens = starts[row + 1] - starts[row];
    const int64_t chunks = (tokens + kFlashChunkTokens - 1) / kFlashChunkTokens;
    pool.ParallelFor(chunks * heads.num_kv_heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        // The longest chunks, at the end of the row, are claimed first.
        const int64_t chunk = chunks - 1 - item / heads.num_kv_heads;
        const int64_t first = starts[row] + chunk * kFlashChunkTokens;
        HWY_DYNAMIC_DISPATCH(AttendChunk)
        (args, row, item % heads.num_kv_heads, first,
         std::min<int64_t>(first + kFlashChunkTokens, starts[row + 1]));
      }
    });
  }
}

}  // namespace penstock::cpu
#endif  // HWY_ONCE
