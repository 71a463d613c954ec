// The order of sums that --invariant fixes for attention. Prefill (flash_tile.cuh) and decode
// (segment_decode.cuh) walk a query's keys in tiles at absolute multiples of 128 positions. Softmax
// begins anew at absolute multiples of 256; such a segment's sums are added to those before it in
// ascending order. So segments may be computed side by side, and which kernel computes one changes
// no bit: wgmma and mma.sync sum alike, whichever operand comes first (sum_chain.h).
//
// A tile's total: the weights of the keys 8 i + j are added up in the order of i, for each j; then
// these eight, j with j + 1, and the four totals of such pairs, each over the segment's tiles, at
// the segment's end. Prefill has a query in four lanes (Softmax), decode one in eight
// (SoftmaxAcross).
//
// A tile or segment of which a query sees nothing changes no bit of it: weights are exact zeros and
// factors exactly one. Whether it is visited depends on the batch.
#pragma once

#include "cuda/tensor_core.cuh"

namespace penstock::cuda {

inline constexpr int kTileKeys = 128;
inline constexpr int kSegmentKeys = 2 * kTileKeys;

// What a new top makes of a row: 2^(older sums' top - new one).
__device__ __forceinline__ float RaiseTop(float& top, float most, float scale, float& base) {
  const float after = fmaxf(top, __fmul_rn(most, scale));
  base = after == -INFINITY ? 0.0f : after;  // a query may see nothing of this tile
  const float factor = FastExp2(__fsub_rn(top, base));
  top = after;
  return factor;
}
__device__ __forceinline__ float Weight(float score, float scale, float base) {
  return FastExp2(__fmaf_rn(score, scale, -base));
}

// scores [16 queries, 128 keys], spread as MultiplyAdd's c (tensor_core.cuh), become weights,
// 2^(score * scale - top), still float32. top and this thread's part of the total follow; factor
// brings older sums to the new top. Unseen scores are -infinity.
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
    float base;
    factor[half] = RaiseTop(top[half], most, scale, base);
    float even = 0;
    float odd = 0;
#pragma unroll
    for (int i = half * 2; i < 64; i += 4) {
      scores[i] = Weight(scores[i], scale, base);
      scores[i + 1] = Weight(scores[i + 1], scale, base);
      even = __fadd_rn(even, scores[i]);
      odd = __fadd_rn(odd, scores[i + 1]);
    }
    total[half] = __fmaf_rn(total[half], factor[half], __fadd_rn(even, odd));
  }
}

// The same of [128 keys, 8 queries], 16 keys a c: this thread's queries are two columns.
__device__ __forceinline__ void SoftmaxAcross(float (&scores)[kTileKeys / 16][4], float scale,
                                              float (&top)[2], float (&total)[2],
                                              float (&factor)[2]) {
#pragma unroll
  for (int column = 0; column < 2; ++column) {
    float most = scores[0][column];
#pragma unroll
    for (int i = 0; i < kTileKeys / 16; ++i) {
      most = fmaxf(most, fmaxf(scores[i][column], scores[i][column + 2]));
    }
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 4));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 8));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 16));
    float base;
    factor[column] = RaiseTop(top[column], most, scale, base);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kTileKeys / 16; ++i) {
      scores[i][column] = Weight(scores[i][column], scale, base);
      scores[i][column + 2] = Weight(scores[i][column + 2], scale, base);
      sum = __fadd_rn(sum, scores[i][column]);
      sum = __fadd_rn(sum, scores[i][column + 2]);
    }
    sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 4));
    total[column] = __fmaf_rn(total[column], factor[column], sum);
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

// A query's total, the same in each lane that has a part of it: of Softmax, and of SoftmaxAcross.
__device__ __forceinline__ float RowTotal(float part) {
  part = __fadd_rn(part, __shfl_xor_sync(~0u, part, 1));
  return __fadd_rn(part, __shfl_xor_sync(~0u, part, 2));
}
__device__ __forceinline__ float ColumnTotal(float part) {
  part = __fadd_rn(part, __shfl_xor_sync(~0u, part, 8));
  return __fadd_rn(part, __shfl_xor_sync(~0u, part, 16));
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
