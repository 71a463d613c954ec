// batch_linear: the linear layer of a batch's decoding tokens, which memory still bounds, on the
// warpgroup's tensor cores.
//   out[t, n] = sum_k x[t, k] * weight[n, k]
// x [num_tokens, in_features], weight [out_features, in_features], out [num_tokens, out_features]
// bf16, sums in f32; num_tokens <= 128, features multiples of 8; weight dense, rows of x and out
// may be strided.
//
// What lives where. A block has up to 256 rows of the weight and all tokens. Slabs of 64 k's of
// both stream through a ring of all its shared memory, by tensor copies; sums stay in registers.
// Tokens are the 64 rows of a product and the weight's rows its columns, so that a block's share of
// rows can be any multiple of 8: what a multiprocessor reads is what decides. Weights wait for
// nobody: the ring fills with them while the kernel before still runs (programmatic dependent
// launch).
// Blocks of a cluster may split k, where rows are few: each sums its part and stores the sums of a
// range of rows into the block that has them, which adds up in the order of the parts. And blocks
// with other rows and the same k's may share the copies of x, each bringing a part of it to all.
//
// The same tensors give the same bits. An element's order of summation depends on the sizes, by the
// split of k.
// Bytes: the weight's, once, and x's from level 2 for each block. Flops: 2 * num_tokens *
// in_features * out_features.
#pragma once

#include "core/tensor/tensor.h"

struct CUstream_st;

namespace penstock::cuda {

inline constexpr int64_t kBatchTokens = 128;

// How the work is spread. split * sharers is 1, 2 or 4, burst 1, 2 or 4.
struct BatchPlan {
  int rows = 0;     // of the weight, a block's at a time
  int split = 1;    // blocks that have parts of k
  int sharers = 1;  // blocks that share the copies of x
  int burst = 1;    // slabs that are asked for together: the longer are the pieces of a row
};

// The widths that a plan may have, and whether it can be run: the blocks that split k have one tile
// each.
inline constexpr int kBatchRows[] = {64, 96, 128, 168, 192, 224, 256};
bool IsBatchPlan(const BatchPlan& plan, int64_t num_tokens, int64_t out_features);

// The plan of the least time, by a model of what a multiprocessor reads
// (tests/bench/results/2026-11-30_batch_linear.md has what it was held against). Shares no x.
BatchPlan ChooseBatchPlan(int64_t num_tokens, int64_t out_features, int64_t in_features);

// Whether these tensors are of the form above.
bool IsBatch(const Tensor& x, const Tensor& weight, const Tensor& out);

// REQUIRES: IsBatch, IsBatchPlan.
void LaunchBatchLinear(CUstream_st* stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out, const BatchPlan& plan);
void LaunchBatchLinear(CUstream_st* stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out);

}  // namespace penstock::cuda
