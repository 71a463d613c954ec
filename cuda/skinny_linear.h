// skinny_linear: the linear layer of few tokens, where a step reads every weight once and computes
// next to nothing with it: memory bounds it, and so does the time in which nobody reads.
//   out[t, n] = sum_k x[t, k] * weight[n, k], or out[t, n] += it
// x [num_tokens, in_features], weight [out_features, in_features] bf16, out [num_tokens,
// out_features] bf16 or f32, sums in f32; num_tokens <= 16, in_features a multiple of 32,
// out_features of 16; weight dense, rows of x and out may be strided.
//
// What lives where. Each multiprocessor has one block, with a share of the rows of the weight. They
// stream through a ring of 192 KiB in its shared memory, filled by bulk copies and never by way of
// registers. x stays in registers: each warp owns a slice of k and has it for all tokens, in the
// layout in which the tensor cores take it, so that a weight is read from shared memory once and x
// not at all; of more than 4096 k's the next 2048 come while the ones before are met. Up to 8
// tokens a block leaves registers to the norms between two products: its own beginning, the filled
// ring, stands beside them. Weights wait for nobody: the ring fills while the kernel before still
// runs (programmatic dependent launch), and a block whose last weights are on their way asks for
// the beginning of the next kernel's, into level 2.
//
// An element's order of summation depends on in_features alone, up to 8 tokens and from 9 on.
// Bytes: the weight's, once. Flops: 2 * num_tokens * in_features * out_features.
#pragma once

#include "core/tensor/tensor.h"

struct CUstream_st;

namespace penstock::cuda {

inline constexpr int64_t kSkinnyTokens = 16;

// Whether these tensors are of the form above.
bool IsSkinny(const Tensor& x, const Tensor& weight, const Tensor& out);

// `adds`: to what is in out, which is f32. `next_weight` is the weight of the next skinny_linear of
// the stream, or empty. REQUIRES: IsSkinny.
void LaunchSkinnyLinear(CUstream_st* stream, const Tensor& x, const Tensor& weight,
                        const Tensor& out, bool adds = false, const Tensor& next_weight = Tensor());

// The linear layer and swiglu in one: weight [gate's rows, then up's], out [num_tokens, half of
// them] bf16. The bits of LaunchSkinnyLinear and swiglu behind each other.
// REQUIRES: IsSkinny.
void LaunchSkinnyGated(CUstream_st* stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out);

}  // namespace penstock::cuda
