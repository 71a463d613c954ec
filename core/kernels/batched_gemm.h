// batched_gemm: many matrix products of one shape.
//   c[b] = alpha * a[b] b[b]   or, with transpose_b,   alpha * a[b] b[b]^T
// a [..., m, k], b [..., k, n] ([..., n, k] with transpose_b), c [..., m, n] f32, dense; the same
// leading dimensions, one at least. c overlaps neither a nor b. On a GPU all f32, f16 or bf16, the
// sums f32 (cuBLAS).
// Padded attention multiplies queries by keys and weights by values with it.
// Order of sums here: gemm_blocks.h, so that an element of c depends on its row of a and its column
// of b alone. Flops: 2 * batch * m * n * k.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

// The plain loop: the reference.
void BatchedGemmReference(ThreadPool& pool, const Tensor& a, const Tensor& b, bool transpose_b,
                          float alpha, const Tensor& c);

// Vector instructions chosen at run time.
void BatchedGemm(ThreadPool& pool, const Tensor& a, const Tensor& b, bool transpose_b, float alpha,
                 const Tensor& c);

// Products in the batch, once the shapes have been checked against each other.
int64_t BatchedGemmCount(const Tensor& a, const Tensor& b, bool transpose_b, const Tensor& c);

}  // namespace penstock::cpu
