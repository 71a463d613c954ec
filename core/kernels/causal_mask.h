// causal_mask: which positions each query of a padded batch may see: none of the future. A chunk
// that follows a cached prefix sees all of the prefix.
//   mask[r, i, j] = 1 if i < len and j <= p and (window == 0 or j > p - window), else 0
//   len = row_starts[r + 1] - row_starts[r],  p = context_lens[r] - len + i, query i's position
// row_starts   [num_rows + 1] i32, as in padding_offset.h
// context_lens [num_rows] i32: positions 0 .. n-1 of row r exist; len <= n
// window       the last positions that are seen (sliding window attention), or kNoWindow
// mask         [num_rows, max_q, max_k] u8. Padding queries see nothing.
// Bytes: num_rows * max_q * max_k; the scores that it meets are 4 * num_heads as many.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock {

constexpr int64_t kNoWindow = 0;

namespace cpu {

void CausalMask(ThreadPool& pool, const Tensor& row_starts, const Tensor& context_lens,
                int64_t window, const Tensor& mask);

}  // namespace cpu
}  // namespace penstock
