// mask_scale_softmax: scores to attention weights in one pass over each row, in place: what the
// mask hides counts as minus infinity, the rest is scaled and goes through softmax.
//   scores[r, h, i, j] = exp(scale * s[j] - top) / sum_v exp(scale * s[v] - top) where mask[r, i,
//   j] is 1, v over all those j, top the largest scale * s[v]; 0 elsewhere
// scores [num_rows, num_heads, max_q, max_k] f32; on a GPU f32, f16 or bf16
// mask   [num_rows, max_q, max_k] u8, 0 or 1 (causal_mask)
// A query that sees nothing (padding) gets zeros, not NaN. Hidden scores are never computed with: a
// NaN among them does not spread. A NaN or plus infinity that is seen makes its row NaN.
// The sum goes over the visible j in ascending order, whatever max_k is; on a GPU in another order,
// of which that holds too.
// Bytes: 2 * element size a score, and one of the mask for each score of one head.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

void MaskScaleSoftmax(ThreadPool& pool, const Tensor& scores, const Tensor& mask, float scale);

}  // namespace penstock::cpu
