// skinny_chain: the linear layer of few tokens in the fixed order of sums (sum_chain.h), which
// skinny_linear cannot have: it shares k out among warps.
//   out[t, n] = sum_k x[t, k] * weight[n, k], or out[t, n] += it
// x [num_tokens, in_features], weight [out_features, in_features] bf16, out [num_tokens,
// out_features] bf16 or f32; num_tokens <= 8 and as many as fit in shared memory, in_features a
// multiple of 32, out_features of 16; weight dense, rows of x and out may be strided.
//
// What lives where. Each multiprocessor has one block, with a share of the rows of the weight. They
// stream through a ring in shared memory, filled by bulk copies, 512 k's of 16 rows a stage. A warp
// has 16 rows and walks all of k, so that its tensor core's products are one chain; several warps
// take their rows' stages in turn. x stands in shared memory beside the ring. Weights wait for
// nobody: the ring fills while the kernel before still runs (programmatic dependent launch).
// Bytes: the weight's, once. Flops: 2 * num_tokens * in_features * out_features.
#pragma once

#include "core/tensor/tensor.h"

struct CUstream_st;

namespace penstock::cuda {

// Whether these tensors are of the form above.
bool IsSkinnyChain(const Tensor& x, const Tensor& weight, const Tensor& out);

// REQUIRES: IsSkinnyChain.
void LaunchSkinnyChain(CUstream_st* stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out, bool adds = false);

}  // namespace penstock::cuda
