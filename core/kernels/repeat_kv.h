// repeat_kv: the keys and values of whole contexts, gathered out of the paged cache into padded
// rows, each KV head as often as query heads share it (grouped-query and multi-query attention;
// with as many KV heads as heads it only gathers).
//   keys[r, h, j, :] = K of head h / (num_heads / num_kv_heads) at position j of row r,
//   values the same of V, for j < context_lens[r]; zeros from there on
// kv           [num_blocks, 2, num_kv_heads, 64, head_dim] f32, one layer's cache
// block_tables [num_rows, max_blocks] i32
// context_lens [num_rows] i32, at most max_k
// keys, values [num_rows, num_heads, max_k, head_dim] f32; on a GPU f32, f16 or bf16, as kv
// The past and the new positions stand in the same pages (concat_kv), so that one pass over them
// concatenates, repeats and pads. Every element of keys and values is written: a product with
// padding never meets what an earlier step left. Source: GQA (Ainslie et al., 2023,
// arXiv:2305.13245).
// Bytes: 2 * element size * head_dim * (num_kv_heads * positions + num_heads * num_rows * max_k).
#pragma once

#include "core/base/thread_pool.h"
#include "core/kernels/bias_rope.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

void RepeatKv(ThreadPool& pool, const Tensor& kv, const Tensor& block_tables,
              const Tensor& context_lens, const HeadLayout& heads, const Tensor& keys,
              const Tensor& values);

}  // namespace penstock::cpu
