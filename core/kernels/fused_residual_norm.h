// fused_residual_norm: the residual sum and the norm that follows it, in one pass.
//   residual[t, i] += x[t, i] + bias[i]
//   out[t, :] = rms_norm(residual[t, :], weight, eps)
// residual, x, out [num_tokens, hidden]; bias [hidden] or empty; weight [hidden]; f32, on a GPU all
// f32, f16 or bf16 and the sums f32; there the residual may be f32 beside f16 or bf16. The norm is
// that of the residual as it is stored.
// Bytes: 2 * (element size + the residual's) * num_tokens * hidden.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

void FusedResidualNorm(ThreadPool& pool, const Tensor& residual, const Tensor& x,
                       const Tensor& bias, const Tensor& weight, float eps, const Tensor& out);

}  // namespace penstock::cpu
