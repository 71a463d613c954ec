// sgemm: one float32 matrix product, as BLAS has it.
//   c = alpha * a b + beta * c
// a [m, k], b [k, n], c [m, n] f32, dense, row-major; c overlaps neither a nor b and is not read
// when beta is 0.
// A library kernel: the layers of a model multiply by `linear`, whose weights stay in their blocks.
// Order of sums and tiling: gemm_blocks.h and gemm_tile-inl.h. Flops: 2 * m * n * k. Bytes:
// 4 * (m * k + k * n + m * n) at least.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

// The plain loop: the reference.
void SgemmReference(ThreadPool& pool, float alpha, const Tensor& a, const Tensor& b, float beta,
                    const Tensor& c);

// Vector instructions chosen at run time.
void Sgemm(ThreadPool& pool, float alpha, const Tensor& a, const Tensor& b, float beta,
           const Tensor& c);

}  // namespace penstock::cpu
