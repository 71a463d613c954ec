// rebuild_padding: ragged rows to rows of one length, heads outermost, as a batched GEMM wants
// them.
//   padded[r, h, i, :] = ragged[row_starts[r] - row_starts[0] + i, h * width : (h + 1) * width],
//   zeros where row r has no token i
// ragged     [num_tokens, num_heads * width] f32, rows may be strided
// row_starts [num_rows + 1] i32, as in padding_offset.h
// padded     [num_rows, num_heads, max_len, width] f32; one head gives plain padded rows. On a GPU
//            f32, f16 or bf16, as `ragged`
// Every element of `padded` is written. bias_rope's padded form has this fused into it.
// Bytes: element size * num_heads * width * (num_tokens + num_rows * max_len).
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

void RebuildPadding(ThreadPool& pool, const Tensor& ragged, const Tensor& row_starts,
                    const Tensor& padded);

}  // namespace penstock::cpu
