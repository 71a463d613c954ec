// bias_rope: adds the QKV bias and rotates queries and keys by their positions, in place.
// Rotary position embedding (Su et al., 2021, arXiv:2104.09864) in the Hugging Face order: element
// i of a head turns with element i + head_dim / 2.
//   (a, b) -> (a cos - b sin, b cos + a sin), angle = position * theta^(-2i / head_dim)
// qkv       [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim] f32: q heads, k heads, v heads
// bias      [the same width] f32, or empty
// positions [num_tokens] i32, each below the rows of rope_table
// rope_table [context_length, head_dim] f32: head_dim / 2 cosines, then as many sines, of each
//            position
// Bytes: 8 * num_tokens * width.
//
// The padded form writes the queries elsewhere, padded to one length for a batched GEMM, in the
// same pass:
//   queries[r, h, i, :] = the turned query head h of token row_starts[r] - row_starts[0] + i, zeros
//   where row r has no token i
// row_starts [num_rows + 1] i32, as in padding_offset.h
// queries    [num_rows, num_heads, max_q, head_dim] f32, every element is written
// Keys and values still change in place, ragged, and the query columns of qkv stay as they came.
// Queries alone are padded here because they alone go from here to the GEMM: new keys and values
// belong in the pages of the cache (concat_kv), where later steps look for them, and attention
// needs them behind the past ones, which repeat_kv gathers, repeats and pads. Padded copies made
// here would be written and read once more and used by nobody.
// Bytes: 4 * (num_tokens * width + num_tokens * 2 * kv size + num_rows * max_q * q size).
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock {

// How the columns of a QKV row are divided.
struct HeadLayout {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;

  int64_t q_size() const { return num_heads * head_dim; }
  int64_t kv_size() const { return num_kv_heads * head_dim; }
  int64_t width() const { return q_size() + 2 * kv_size(); }
};

namespace cpu {

// Fills a table as above. Frequencies, angles, cosines and sines are rounded to float32 at each
// step, as Hugging Face's are.
void FillRopeTable(float theta, const Tensor& rope_table);

void BiasRope(ThreadPool& pool, const Tensor& qkv, const Tensor& bias, const Tensor& positions,
              const Tensor& rope_table, const HeadLayout& heads);

void BiasRopePadded(ThreadPool& pool, const Tensor& qkv, const Tensor& bias,
                    const Tensor& positions, const Tensor& rope_table, const Tensor& row_starts,
                    const HeadLayout& heads, const Tensor& queries);

}  // namespace cpu
}  // namespace penstock
