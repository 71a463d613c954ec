// What the kernels of both attention stems are launched with: AttentionArgs as plain pointers.
#pragma once

#include <cmath>

#include "core/kernels/attention_args.h"
#include "cuda/launch.h"

namespace penstock::cuda {

inline constexpr int kPage = static_cast<int>(kBlockSize);  // tokens a KV block

// Places of a tile, [begin, end).
struct Range {
  int begin;
  int end;
};

template <typename T>
struct PagedAttention {
  const T* qkv;
  int64_t qkv_stride;
  const int32_t* row_starts;  // flash_attention's alone
  const int32_t* context_lens;
  const int32_t* block_tables;
  T* kv;
  T* out;
  int64_t out_stride;
  int rows;
  int table_width;  // KV blocks a row
  int num_blocks;
  int num_heads;
  int num_kv_heads;
  int head_dim;
  int window;
  float scale;  // log2(e) / sqrt(head_dim): weights are powers of two

  __device__ __forceinline__ int Context(int row) const {
    const int context = context_lens[row];
    DeviceCheck(context > 0 && context <= table_width * kPage);
    return context;
  }
  // 0 for a row of padding, as decoder_attention has them.
  __device__ __forceinline__ int ContextOrNone(int row) const {
    return context_lens[row] == 0 ? 0 : Context(row);
  }
  // As AttentionArgs::FirstSeen.
  __device__ __forceinline__ int FirstSeen(int position) const {
    return window == kNoWindow || position < window ? 0 : position - window + 1;
  }
  // The keys of a page [64, head_dim]; its values lie num_kv_heads * 64 * head_dim behind them.
  __device__ __forceinline__ int Block(int row, int page) const {
    const int block = block_tables[int64_t{row} * table_width + page];
    DeviceCheck(block >= 0 && block < num_blocks);
    return block;
  }
  __device__ __forceinline__ int64_t PageElements() const { return int64_t{kPage} * head_dim; }
  __device__ __forceinline__ T* Keys(int block, int kv_head) const {
    return kv + (int64_t{block} * 2 * num_kv_heads + kv_head) * PageElements();
  }
  __device__ __forceinline__ T* Values(int block, int kv_head) const {
    return Keys(block, num_kv_heads + kv_head);
  }
  __device__ __forceinline__ const T* Query(int64_t token, int head) const {
    return qkv + token * qkv_stride + int64_t{head} * head_dim;
  }
  // Head h of a token's keys; num_kv_heads + h is that of its values.
  __device__ __forceinline__ const T* NewKey(int64_t token, int head) const {
    return Query(token, num_heads + head);
  }
  __device__ __forceinline__ T* Out(int64_t token, int head) const {
    return out + token * out_stride + int64_t{head} * head_dim;
  }
};

// Whether 16-byte accesses fit all heads.
inline bool IsWide(const AttentionArgs& args) {
  return IsWide(args.qkv, args.heads.head_dim) && IsWide(args.kv, args.heads.head_dim) &&
         IsWide(args.out, args.heads.head_dim);
}

// CHECKs shapes, types and devices.
template <typename T>
PagedAttention<T> MakePagedAttention(const AttentionArgs& args) {
  const HeadLayout& heads = args.heads;
  const int64_t rows = args.context_lens.dim(0);
  PENSTOCK_CHECK_EQ(args.qkv.dim(1), heads.width());
  PENSTOCK_CHECK_EQ(args.out.dim(0), args.qkv.dim(0));
  PENSTOCK_CHECK_EQ(args.out.dim(1), heads.q_size());
  PENSTOCK_CHECK_EQ(args.block_tables.dim(0), rows);
  PENSTOCK_CHECK_EQ(heads.num_heads % heads.num_kv_heads, 0);
  PENSTOCK_CHECK(args.kv.shape() ==
                 Shape({args.kv.dim(0), 2, heads.num_kv_heads, kBlockSize, heads.head_dim}));
  PENSTOCK_CHECK(args.kv.is_contiguous() && args.block_tables.is_contiguous());
  PENSTOCK_CHECK_LE(heads.head_dim, kMaxHeadDim);
  PENSTOCK_CHECK_GE(args.window, kNoWindow);
  PENSTOCK_CHECK_LE(args.qkv.dim(0), INT32_MAX);
  PENSTOCK_CHECK_LE(args.kv.dim(0), INT32_MAX);
  PENSTOCK_CHECK_LE(args.block_tables.dim(1) * kBlockSize, INT32_MAX);
  return {Elements<const T>(args.qkv),
          args.qkv.stride(0),
          args.row_starts.empty() ? nullptr : Elements<const int32_t>(args.row_starts),
          Elements<const int32_t>(args.context_lens),
          Elements<const int32_t>(args.block_tables),
          Elements<T>(args.kv),
          Elements<T>(args.out),
          args.out.stride(0),
          static_cast<int>(rows),
          static_cast<int>(args.block_tables.dim(1)),
          static_cast<int>(args.kv.dim(0)),
          static_cast<int>(heads.num_heads),
          static_cast<int>(heads.num_kv_heads),
          static_cast<int>(heads.head_dim),
          static_cast<int>(std::min<int64_t>(args.window, INT32_MAX)),
          static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(heads.head_dim)))};
}

}  // namespace penstock::cuda
