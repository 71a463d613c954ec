// fused_residual_norm: the residual sum and the norm that follows it, in one pass.
//   residual[t, i] += x[t, i] + bias[i]
//   out[t, :] = rms_norm(residual[t, :], weight, eps)
// residual, x, out [num_tokens, hidden] f32; bias [hidden] f32 or empty; weight [hidden] f32.
// Bytes: 16 * num_tokens * hidden.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace penstock::cpu {

void FusedResidualNorm(ThreadPool& pool, const Tensor& residual, const Tensor& x,
                       const Tensor& bias, const Tensor& weight, float eps, const Tensor& out);

}  // namespace penstock::cpu
