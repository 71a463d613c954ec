// bias_rope: what happens to queries and keys between the QKV product and attention, in one pass
// and in place: the bias is added, each query and key head goes through RMSNorm where a model does
// that (Qwen3), and each is rotated by its position.
//   x = x + bias
//   x = x / sqrt(mean(x^2) + eps) * gain     over a head's head_dim elements, if there is a gain
//   (a, b) -> (a cos - b sin, b cos + a sin) angle = position * frequency i
// Rotary position embedding (Su et al., 2021, arXiv:2104.09864) in the Hugging Face order: element
// i of a head turns with element i + head_dim / 2. Value heads get their bias only.
// The norm is an option here, and not rms_norm over a [num_tokens * heads, head_dim] view, because
// a head stands between bias and rotation anyway: on a GPU in the registers of one warp, whose sum
// of squares is a shuffle away. Apart, it would read and write q and k once more.
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
//
// rope_table makes the cosines and sines of a step's positions, once a step for all layers:
//   table[t, i] = cos(positions[t] * frequencies[i]), table[t, head_dim / 2 + i] the sine
// positions   [num_tokens] i32
// frequencies head_dim / 2 values on the host (at most 256: a GPU's launch carries them)
// table       [num_tokens, head_dim] f32
// Angles, cosines and sines are rounded to float32 at each step, as Hugging Face's are. A table of
// the step's positions instead of all positions: one of the whole context is 64 MiB and a tenth of
// a second of a start for a Llama 3.1, while a step needs head_dim sines a token for all its
// layers, and the same function of position and frequency gives the same bits either way.
#pragma once

#include <span>

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

struct BiasRopeArgs {
  const Tensor& qkv;         // [num_tokens, heads.width()] f32: q heads, k heads, v heads
  const Tensor& bias;        // [heads.width()] f32, or empty
  const Tensor& q_gain;      // [head_dim] f32: RMSNorm of each query head; empty: none
  const Tensor& k_gain;      // the same of each key head
  float eps;                 // of that norm
  const Tensor& rope_table;  // [num_tokens, head_dim] f32, as rope_table makes it
  const HeadLayout& heads;
};

namespace cpu {

void RopeTable(ThreadPool& pool, std::span<const float> frequencies, const Tensor& positions,
               const Tensor& table);

void BiasRope(ThreadPool& pool, const BiasRopeArgs& args);

void BiasRopePadded(ThreadPool& pool, const BiasRopeArgs& args, const Tensor& row_starts,
                    const Tensor& queries);

}  // namespace cpu
}  // namespace penstock
