// remove_padding: rows of one length back to ragged rows, so that the layers after attention work
// on no padding. The inverse of rebuild_padding.
//   ragged[t, h * width : (h + 1) * width] = padded[r, h, i, :],  offsets[t] = r * max_len + i
// padded  [num_rows, num_heads, max_len, width] f32
// offsets [num_tokens] i32, of padding_offset
// ragged  [num_tokens, num_heads * width] f32, rows may be strided; on a GPU f32, f16 or bf16, as
//         `padded`
// Padding is not read. Bytes: 2 * element size * num_tokens * num_heads * width.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

void RemovePadding(ThreadPool& pool, const Tensor& padded, const Tensor& offsets,
                   const Tensor& ragged);

}  // namespace penstock::cpu
