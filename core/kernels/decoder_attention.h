// decoder_attention: fused self-attention of decode, one new token a sequence: its key and value
// are appended to the paged cache, then its query meets all positions (concat KV, broadcast over
// the query group, QK gemv, scale, softmax, V gemv in one kernel).
//   out[r, h] = softmax(q[r, h] . K[f..p] / sqrt(head_dim)) V[f..p],  p = context_lens[r] - 1
//   f = 0, or the first position inside the sliding window
// args as in attention_args.h with one token a row; row_starts is not read (token r is row r). A
// row whose context_lens is 0 is padding: nothing of it is read or written, and the others have the
// bits that they have without it.
// Order of sums: attention_args.h, so the result has the bits that flash_attention gives.
// Bytes: the keys and values that are seen, once a KV head.
#pragma once

#include "core/base/thread_pool.h"
#include "core/kernels/attention_args.h"

namespace penstock::cpu {

// concat_kv and then flash_attention's reference: the reference.
void DecoderAttentionReference(ThreadPool& pool, const AttentionArgs& args);

// Vector instructions chosen at run time.
void DecoderAttention(ThreadPool& pool, const AttentionArgs& args);

}  // namespace penstock::cpu
