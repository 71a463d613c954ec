// concat_kv: appends the keys and values of new tokens to the paged KV cache of one layer.
//   kv[slot / 64][0][h][slot % 64][:] = K of head h, kv[slot / 64][1][h][slot % 64][:] = V of head
//   h
// qkv      [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim] f32, after bias_rope
// kv_slots [num_tokens] i64: KV block * 64 + the position's place in it
// kv       [num_blocks, 2, num_kv_heads, 64, head_dim] f32; on a GPU f32, f16 or bf16, as qkv
// Bytes: 4 * element size * num_tokens * num_kv_heads * head_dim.
#pragma once

#include "core/base/thread_pool.h"
#include "core/kernels/bias_rope.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

void ConcatKv(ThreadPool& pool, const Tensor& qkv, const Tensor& kv_slots, const HeadLayout& heads,
              const Tensor& kv);

}  // namespace penstock::cpu
