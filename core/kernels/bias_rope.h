// bias_rope: adds the QKV bias and rotates queries and keys by their positions, in place.
// Rotary position embedding (Su et al., 2021, arXiv:2104.09864) in the Hugging Face order: element
// i of a head turns with element i + head_dim / 2.
//   (a, b) -> (a cos - b sin, b cos + a sin), angle = position * theta^(-2i / head_dim)
// qkv       [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim] f32: q heads, k heads, v heads
// bias      [the same width] f32, or empty
// positions [num_tokens] i32, each below the rows of rope_table
// rope_table [context_length, head_dim] f32: head_dim / 2 cosines, then as many sines, of a
// position Bytes: 8 * num_tokens * width.
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

}  // namespace cpu
}  // namespace penstock
