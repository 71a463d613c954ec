// The order of sums that --invariant fixes for attention: what prefill (flash_tile.cuh) and decode
// (segment_decode.cuh) do with a query's scores and sums is the code of this file, over tiles at
// absolute multiples of 128 positions. Softmax begins anew at absolute multiples of 256; such a
// segment's sums are added to those before it in ascending order. So segments may be computed side
// by side, and which kernel computes one changes no bit: wgmma and mma.sync sum alike
// (sum_chain.h).
//
// A tile or segment of which a query sees nothing changes no bit of it: weights are exact zeros and
// factors exactly one. Whether it is visited depends on the batch.
// The rows of a warp, 16, are spread as MultiplyAdd's c (tensor_core.cuh).
#pragma once

#include "cuda/tensor_core.cuh"

namespace penstock::cuda {

inline constexpr int kTileKeys = 128;
inline constexpr int kSegmentKeys = 2 * kTileKeys;

// scores [16, 128] become weights, 2^(score * scale - top), still float32. top and this thread's
// part of the total follow; factor brings older sums to the new top. Unseen scores are -infinity.
__device__ __forceinline__ void Softmax(float (&scores)[64], float scale, float (&top)[2],
                                        float (&total)[2], float (&factor)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float most = scores[half * 2];
#pragma unroll
    for (int i = 0; i < 64; i += 4) {
      most = fmaxf(most, fmaxf(scores[i + half * 2], scores[i + half * 2 + 1]));
    }
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    const float after = fmaxf(top[half], __fmul_rn(most, scale));
    const float base = after == -INFINITY ? 0.0f : after;  // a query may see nothing of this tile
    factor[half] = FastExp2(__fsub_rn(top[half], base));
    top[half] = after;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 64; i += 4) {
#pragma unroll
      for (int j = i + half * 2; j < i + half * 2 + 2; ++j) {
        scores[j] = FastExp2(__fmaf_rn(scores[j], scale, -base));
        sum = __fadd_rn(sum, scores[j]);
      }
    }
    total[half] = __fmaf_rn(total[half], factor[half], sum);
  }
}

// Weights as the tensor cores take them.
template <typename T>
__device__ __forceinline__ void TakeWeights(const float (&scores)[64],
                                            uint32_t (&weights)[kTileKeys / 16][4]) {
#pragma unroll
  for (int k = 0; k < kTileKeys / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      weights[k][i] = PackTwo<T>(scores[k * 8 + i * 2], scores[k * 8 + i * 2 + 1]);
    }
  }
}

// A row's total, the same in each lane that has a part of the row.
__device__ __forceinline__ float RowTotal(float part) {
  part = __fadd_rn(part, __shfl_xor_sync(~0u, part, 1));
  return __fadd_rn(part, __shfl_xor_sync(~0u, part, 2));
}

// How the sums of a segment are added to those of the ones before it: Merge() for each element,
// the total among them.
struct SegmentMerge {
  float top;  // of both
  float before;
  float segment;

  __device__ __forceinline__ SegmentMerge(float top_before, float top_of_segment) {
    top = fmaxf(top_before, top_of_segment);
    const float base = top == -INFINITY ? 0.0f : top;
    before = FastExp2(__fsub_rn(top_before, base));
    segment = FastExp2(__fsub_rn(top_of_segment, base));
  }
  __device__ __forceinline__ float Merge(float sum_before, float sum_of_segment) const {
    return __fmaf_rn(sum_of_segment, segment, __fmul_rn(sum_before, before));
  }
};

// A row's element of the output is its sum times this.
__device__ __forceinline__ float Normaliser(float total) { return __fdiv_rn(1.0f, total); }

}  // namespace penstock::cuda
