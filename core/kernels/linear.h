// linear: a matrix product with a weight in the file's own blocks.
//   out[t, n] = sum_k x[t, k] * weight[n, k]
// and linear_add: the same, added to what is in out, as the residual sum is.
// x      [num_tokens, in_features] f32
// weight [out_features, in_features] f32, f16, bf16 or any quantization of data_type.h
// out    [num_tokens, out_features] f32, rows may be strided
//
// Each weight row is turned into float32 in cache-sized scratch, never in memory, and used for all
// tokens. The sum over k of one output element has one order, whatever the number of tokens and
// whichever thread computes it: the same token gives the same bits in any batch.
// Flops: 2 * num_tokens * in_features * out_features. Bytes: the weight's, once.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

// The plain loop: the reference.
void LinearReference(ThreadPool& pool, const Tensor& x, const Tensor& weight, const Tensor& out);

// Vector instructions chosen at run time (AVX-512, AVX2, SSE4, ...).
void Linear(ThreadPool& pool, const Tensor& x, const Tensor& weight, const Tensor& out);

// out += the same product, to the bit.
void LinearAdd(ThreadPool& pool, const Tensor& x, const Tensor& weight, const Tensor& out);

}  // namespace penstock::cpu
