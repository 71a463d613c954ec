// What both attention kernels take: a batch of sequences over one layer's paged KV cache.
//
// One reduction order for both, so that a token's output has the same bits whether it came in a
// prefill chunk of any size or alone in decode: tiles of 64 absolute positions from the first on,
// online softmax (Milakov and Gimelshein, 2018, arXiv:1805.02867; Dao et al., 2022,
// arXiv:2205.14135), one row of one query head at a time. With a sliding window (Child et al.,
// 2019, arXiv:1904.10509; Mistral 7B) the first tile begins at the first position that is seen,
// which depends on the query's position alone, and tiles before it are not read.
// On the GPU (any one type instead of f32) the two kernels have an order each: cuda/flash_tile.cuh,
// which keeps a token's bits in chunks of any size, cuda/decode_share.cuh and segment_work.cuh.
#pragma once

#include "core/base/kv_block.h"
#include "core/kernels/bias_rope.h"
#include "core/kernels/causal_mask.h"
#include "core/tensor/tensor.h"

namespace penstock {

constexpr int64_t kAttentionTile = kBlockSize;  // tokens
constexpr int64_t kMaxHeadDim = 512;

struct AttentionArgs {
  const Tensor& qkv;           // [num_tokens, heads.width()] f32, after bias_rope
  const Tensor& row_starts;    // [num_rows + 1] i32: tokens of sequence r
  const Tensor& context_lens;  // [num_rows] i32: positions 0 .. n-1 exist once this step is done
  const Tensor& block_tables;  // [num_rows, max_blocks] i32
  const HeadLayout& heads;
  const Tensor& kv;   // [num_blocks, 2, num_kv_heads, 64, head_dim] f32
  const Tensor& out;  // [num_tokens, heads.q_size()] f32
  // A query at position p sees (p - window, p]; kNoWindow: all of [0, p].
  int64_t window = kNoWindow;

  // The first position that a query at `position` sees.
  int64_t FirstSeen(int64_t position) const {
    return window == kNoWindow || position < window ? 0 : position - window + 1;
  }
};

}  // namespace penstock
