// rms_norm: root mean square normalisation (Zhang and Sennrich, 2019, arXiv:1910.07467).
//   out[t, i] = x[t, i] / sqrt(mean_j(x[t, j]^2) + eps) * weight[i]
// x, out [num_tokens, hidden]; weight [hidden]; f32, on a GPU all f32, f16 or bf16 and the sums
// f32; there x may be f32 beside f16 or bf16. out may be x.
// The sum of squares is taken in 16 interleaved parts and then over the parts in order; on a GPU in
// another order, which like this one depends on hidden alone.
// Bytes: (element size of x + of out) * num_tokens * hidden.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

void RmsNorm(ThreadPool& pool, const Tensor& x, const Tensor& weight, float eps, const Tensor& out);

// One row; also what fused_residual_norm ends with.
void RmsNormRow(const float* x, const float* weight, int64_t hidden, float eps, float* out);

}  // namespace penstock::cpu
