// flash_attention: causal attention of prefill chunks over the paged KV cache, ragged.
//   out[t, h] = softmax(q[t, h] . K[f..p] / sqrt(head_dim)) V[f..p],  p = position of token t
//   f = 0, or the first position inside the sliding window
// for every token of every row; the keys and values of the chunk are in the cache already
// (concat_kv). Query head h reads KV head h / (num_heads / num_kv_heads).
// Source: FlashAttention (Dao et al., 2022, arXiv:2205.14135); order of sums: attention_args.h.
// Flops: 4 * head_dim * num_heads * sum of attended positions.
#pragma once

#include "core/base/thread_pool.h"
#include "core/kernels/attention_args.h"

namespace penstock::cpu {

// The plain loop over whole score rows: the reference.
void FlashAttentionReference(ThreadPool& pool, const AttentionArgs& args);

// Queries that share a tile of keys and values while it is in the first cache.
constexpr int64_t kFlashChunkTokens = 8;

// Vector instructions chosen at run time.
void FlashAttention(ThreadPool& pool, const AttentionArgs& args);

}  // namespace penstock::cpu
