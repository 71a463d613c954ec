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

#include <functional>

#include "core/tensor/tensor.h"

struct CUstream_st;

namespace penstock::cuda {

// linear (core/kernels/linear.h) by the chain itself: any sizes, slow. x [num_tokens, in], weight
// [out, in] of one type, out [num_tokens, out] of it or f32; rows may be strided. `adds`: the chain
// is added to what is in out.
void LaunchChainLinear(CUstream_st* stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out, bool adds = false);

// Whether a product has the chain's bits. `multiply(x)` enqueues it, with an x of the shape and
// strides of the one given; x is random and new each time, until 2^18 elements of out or more have
// been compared, at both ends of its tokens: another order shows in few of them once they are
// rounded to 16 bits. Waits for the stream, and allocates for as long as it runs. Overwrites out.
bool IsChain(CUstream_st* stream, const Tensor& x, const Tensor& weight, const Tensor& out,
             const std::function<void(const Tensor& x)>& multiply);

}  // namespace penstock::cuda
