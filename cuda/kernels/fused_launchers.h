// Launchers of two stems in one kernel, beside those of launchers.h and by their rules. The bits
// are those of the two behind each other. Only of the fastest order of sums.
#pragma once

#include "cuda/kernels/launchers.h"

namespace penstock::cuda {

// linear, then swiglu: weight [gate's rows, then up's], out [num_tokens, half of them]; `sums` is
// the type of what lies between the two, out's or f32. Does nothing and returns false where there
// is no such kernel for these tensors, or for `blas`'s order.
bool LaunchGatedLinear(const Blas& blas, StreamHandle stream, const Tensor& x, const Tensor& weight,
                       DataType sums, const Tensor& out);

// bias_rope without bias and gains, then decoder_attention. rope.qkv is args.qkv, which stays as it
// is; it is not read where rope.product is. `workspace` as for decoder_attention, and the same.
// REQUIRES: HasRopeDecoderAttention.
bool HasRopeDecoderAttention(const BiasRopeArgs& rope, const AttentionArgs& args);
void LaunchRopeDecoderAttention(StreamHandle stream, const BiasRopeArgs& rope,
                                const AttentionArgs& args, const Tensor& workspace);

}  // namespace penstock::cuda
