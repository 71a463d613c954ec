// batch_linear: a layer's other products, of a batch's decoding tokens, with what stands between
// them and the norms:
//   AddAndNorm:  sum[t, j] += sum_k x[t, k] * weight[j, k]
//                gained[t, j] = sum[t, j] * gain[j], rounded; the sums of sum[t, :]^2, in parts
//   Multiply:    out[t, j] = factor(t) * sum_k x[t, k] * weight[j, k], rounded
// with the factor of a deferred norm (deferred_norm.h). x [num_tokens, in_features], weight
// [out_features, in_features], gain [out_features], gained and out [num_tokens, out_features] bf16,
// sum f32. num_tokens <= kBatchTokens, in_features a multiple of 128; x and weight dense, rows of
// the others may be strided.
//
// What lives where: batch_tile.cuh. A block has a tile of 64, 80 or 96 rows and all tokens; where
// that leaves multiprocessors without work, two blocks of a cluster have half of k each, exchange
// half of their sums by distributed shared memory and finish half of the rows each. A tile a block:
// out_features whose tiles do not nearly fill the GPU in one round are left to cuBLASLt.
//
// The sums are in an order of their own: not that which --invariant fixes.
// Bytes: the weight's, once, x's from level 2 for each tile. Flops: 2 * num_tokens * out_features *
// in_features.
#pragma once

#include "core/tensor/tensor.h"
#include "cuda/deferred_norm.h"

struct CUstream_st;

namespace penstock::cuda {

inline constexpr int64_t kBatchTokens = 64;
inline constexpr int64_t kBatchMultiple = 128;  // of in_features

struct BatchPlan {
  int rows = 0;   // of a tile: 64, 80 or 96; 0: no plan fills the GPU
  int split = 1;  // of k: 1 or 2

  // Parts in which AddAndNorm leaves a row's squares: its blocks.
  int64_t Parts(int64_t out_features) const { return out_features / rows * split; }
};

BatchPlan ChooseBatchPlan(int64_t out_features);
// Parts at most, and rows of a weight that has a plan, for any out_features.
int64_t MaxBatchParts();
int64_t MaxBatchRows();

// Whether x and weight are of the form above, with more tokens than skinny_linear's, and have a
// plan.
bool IsBatch(const Tensor& x, const Tensor& weight);

// REQUIRES: IsBatch; rows of all tensors begin at multiples of 16 bytes.
void LaunchBatchAddAndNorm(CUstream_st* stream, const Tensor& x, const Tensor& weight,
                           const Tensor& sum, const Tensor& gain, const Tensor& gained,
                           const Tensor& squares);
void LaunchBatchLinear(CUstream_st* stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out, const DeferredNorm& norm = {});

}  // namespace penstock::cuda
