// padding_offset: where each token of a ragged batch stands once every row is padded to max_len.
//   offsets[row_starts[r] - row_starts[0] + i] = r * max_len + i,  for i below the length of row r
// row_starts [num_rows + 1] i32, ascending, no row longer than max_len; it may begin anywhere, so
//            that a slice of a batch's rows will do. In this and the other kernels of the padded
//            path token 0 of a ragged tensor is token row_starts[0].
// offsets    [num_tokens] i32, num_tokens = row_starts[num_rows] - row_starts[0]
// Source: the effective transformer's removal of padding (ByteDance, 2020), as FasterTransformer
// has it; there the offset is what must be added to t.
// Bytes: 4 * (num_rows + num_tokens).
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

void PaddingOffset(ThreadPool& pool, const Tensor& row_starts, int64_t max_len,
                   const Tensor& offsets);

}  // namespace penstock::cpu
