// gemv: a matrix times a vector, the seed's way: each thread loads whole vectors, multiplies and
// adds, reduces its sums, writes one element back.
//   y[n] = sum_k weight[n, k] * x[k]
// weight [out_features, in_features] f32, f16 or bf16, dense
// x      [in_features] f32
// y      [out_features] f32
// A library kernel: a model's decode steps go through `linear`, which takes the quantized types
// too. The sum of a row has one order, whichever thread computes it.
// Bytes: the weight's, once: memory bounds it. Flops: 2 * out_features * in_features.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

// The plain loop: the reference.
void GemvReference(ThreadPool& pool, const Tensor& weight, const Tensor& x, const Tensor& y);

// Vector instructions chosen at run time.
void Gemv(ThreadPool& pool, const Tensor& weight, const Tensor& x, const Tensor& y);

}  // namespace penstock::cpu
