// The vector version of decoder_attention, compiled once for each instruction set by Highway.
#include <cmath>

#include "core/base/check.h"
#include "core/kernels/decoder_attention.h"
#include "core/tensor/tensor_wrapper.h"
#include "hwy/cache_control.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/kernels/decoder_attention_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "core/kernels/attention_tile-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace penstock::cpu::HWY_NAMESPACE {

// All query heads of one KV head of sequence `row`: each tile of keys and values is read once.
void DecodeRow(const AttentionArgs& args, int64_t row, int64_t kv_head) {
  const HeadLayout& heads = args.heads;
  const int64_t head_dim = heads.head_dim;
  const int64_t group = heads.num_heads / heads.num_kv_heads;
  const TensorWrapper<const float> qkv(args.qkv);
  const TensorWrapper<float> kv(args.kv);
  const TensorWrapper<const int32_t> table(args.block_tables);
  const int64_t context = TensorWrapper<const int32_t>(args.context_lens)[row];
  if (context == 0) return;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const int64_t kv_stride = kTileTokens * head_dim;
  float* out = TensorWrapper<float>(args.out).row(row) + kv_head * group * head_dim;

  const int64_t position = context - 1;
  float* new_key = kv.row(table.row(row)[position / kTileTokens]) + kv_head * kv_stride +
                   position % kTileTokens * head_dim;
  const float* k = qkv.row(row) + heads.q_size() + kv_head * head_dim;
  std::copy_n(k, head_dim, new_key);
  std::copy_n(k + heads.kv_size(), head_dim, new_key + heads.num_kv_heads * kv_stride);

  std::fill_n(out, group * head_dim, 0.0f);
  constexpr int64_t kHeads = 8;  // query heads a pass; wider groups take several
  for (int64_t first = 0; first < group; first += kHeads) {
    const int64_t count = std::min(kHeads, group - first);
    HWY_ALIGN float q[kHeads][kMaxHeadDim];
    OnlineSoftmax state[kHeads];
    for (int64_t g = 0; g < count; ++g) {
      const float* query = qkv.row(row) + (kv_head * group + first + g) * head_dim;
      for (int64_t i = 0; i < head_dim; ++i) q[g][i] = query[i] * scale;
    }
    for (int64_t tile = args.FirstSeen(position) / kTileTokens; tile * kTileTokens < context;
         ++tile) {
      const TileRange seen = SeenOf(args, position, tile);
      const float* keys =
          kv.row(table.row(row)[tile]) + kv_head * kv_stride + seen.first * head_dim;
      const float* values = keys + heads.num_kv_heads * kv_stride;
      // Fetched together, as many lines at a time as a core can: one after the other they would be
      // waited for.
      const int64_t floats = seen.count * head_dim;
      constexpr int64_t kLine = 16;
      for (int64_t i = 0; i < floats; i += kLine) hwy::Prefetch(keys + i);
      for (int64_t i = 0; i < floats; i += kLine) hwy::Prefetch(values + i);
      for (int64_t g = 0; g < count; ++g) {
        AttendTile(q[g], keys, values, seen.count, head_dim, state[g],
                   out + (first + g) * head_dim);
      }
    }
    for (int64_t g = 0; g < count; ++g) {
      const float inverse = 1.0f / state[g].total;
      for (int64_t i = 0; i < head_dim; ++i) out[(first + g) * head_dim + i] *= inverse;
    }
  }
}

}  // namespace penstock::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace penstock::cpu {

HWY_EXPORT(DecodeRow);

void DecoderAttention(ThreadPool& pool, const AttentionArgs& args) {
  const HeadLayout& heads = args.heads;
  const int64_t rows = args.context_lens.dim(0);
  PENSTOCK_CHECK_EQ(args.qkv.dim(0), rows);
  PENSTOCK_CHECK_EQ(args.qkv.dim(1), heads.width());
  PENSTOCK_CHECK_EQ(args.out.dim(1), heads.q_size());
  PENSTOCK_CHECK_EQ(args.kv.dim(3), kAttentionTile);
  PENSTOCK_CHECK_LE(heads.head_dim, kMaxHeadDim);
  PENSTOCK_CHECK_GE(args.window, kNoWindow);
  pool.ParallelFor(rows * heads.num_kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      HWY_DYNAMIC_DISPATCH(DecodeRow)(args, item / heads.num_kv_heads, item % heads.num_kv_heads);
    }
  });
}

}  // namespace penstock::cpu
#endif  // HWY_ONCE
