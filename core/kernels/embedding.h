// embedding: rows of a table by index.
//   out[t, :] = table[ids[t], :]
// ids   [num_tokens] i32, each in [0, rows)
// table [rows, hidden] f32, f16, bf16 or any block type; a GPU takes the first three
// out   [num_tokens, hidden] f32; on a GPU f32, f16 or bf16
// Bytes: num_tokens * (row bytes of the table + element size * hidden).
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

void Embedding(ThreadPool& pool, const Tensor& ids, const Tensor& table, const Tensor& out);

}  // namespace penstock::cpu
