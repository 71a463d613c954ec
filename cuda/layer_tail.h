// layer_tail (core/kernels/layer_tail.h) of up to 8 tokens as one kernel, bf16: the products of
// skinny_linear behind each other, with the norms and swiglu between them. What a kernel's end
// costs is that for some 2 us nobody reads; here the ring of each multiprocessor goes on with the
// next product's weights while blocks wait for the last one's results, up to 192 KiB ahead.
//
// A block counts itself in device memory once its share of a product is stored; blocks wait until
// all have. A token's norm is one block's, which counts itself again. So all blocks have to be
// there at once: one a multiprocessor, by a cooperative launch.
//
// Bits: those of skinny_linear, fused_residual_norm and swiglu.
#pragma once

#include "core/kernels/layer_tail.h"

struct CUstream_st;

namespace penstock::cuda {

inline constexpr int64_t kTailTokens = 8;
inline constexpr int64_t kTailCounterBytes = 256;

bool HasLayerTail(const LayerTailArgs& args);
// counters: u8, kTailCounterBytes, zero before its first call; of one stream.
// REQUIRES: HasLayerTail.
void LaunchLayerTail(CUstream_st* stream, const LayerTailArgs& args, const Tensor& counters);

}  // namespace penstock::cuda
