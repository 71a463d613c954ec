// The order of sums that --invariant fixes for linear: an element of out is one chain in one f32
// accumulator, k ascending. Of f16 and bf16 a link is a tensor core's sum of 16 products (PTX ISA:
// mma.m16n8k16; the last is filled up with zeros), of f32 one fused multiply-add.
//
// mma.sync, with x or the weight as its first operand and the 16 k's in any order, wgmma and those
// algorithms of cuBLASLt that do not split k give the same bits for it (measured:
// tests/bench/results/2026-11-30_cuda_invariant.md). So a few tokens may take one kernel and many
// another, and which is a matter of speed alone. It is not what NVIDIA promises: each algorithm is
// held against this one before it is used.
// Thread-safe as far as the stream is. Errors: a failed CUDA call ends the process.
#pragma once

#include "core/tensor/tensor.h"

struct CUstream_st;

namespace penstock::cuda {

// linear (core/kernels/linear.h) by the chain itself: any sizes, slow. x [num_tokens, in], weight
// [out, in] of one type, out [num_tokens, out] of it or f32; rows may be strided.
void LaunchChainLinear(CUstream_st* stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out);

// Whether `out` has the chain's bits, on a sample of at most 128 tokens and 2048 features. Waits
// for the stream, and allocates for as long as it runs.
bool IsChain(CUstream_st* stream, const Tensor& x, const Tensor& weight, const Tensor& out);

}  // namespace penstock::cuda
