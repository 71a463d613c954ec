// batch_linear: the linear layer of a batch's decoding tokens, which memory still bounds, on the
// warpgroup's tensor cores.
//   out[t, n] = sum_k x[t, k] * weight[n, k]
// x [num_tokens, in_features], weight [out_features, in_features], out [num_tokens, out_features]
// bf16, sums in f32; num_tokens <= 256, features multiples of 8; weight dense, rows of x and out
// may be strided.
//
// What lives where. A block has up to 256 rows of the weight and all tokens. Slabs of 64 k's of
// both stream through a ring of all its shared memory, by tensor copies; sums stay in registers.
// Tokens are the 64 rows of a product and the weight's rows its columns, so that a block's share of
// rows can be any multiple of 8: what a multiprocessor reads is what decides. Weights wait for
// nobody: the ring fills with them while the kernel before still runs (programmatic dependent
// launch). Blocks of a cluster may split k, where rows are few: each sums its part, then they add
// up through each other's shared memory, in the order of their ranks. And blocks with other rows
// and the same k's may share the copies of x, each bringing a part of it to all.
//
// The same tensors give the same bits. An element's order of summation depends on the sizes, by the
// split of k.
// Bytes: the weight's, once, and x's from level 2 for each block. Flops: 2 * num_tokens *
// in_features * out_features.
#pragma once

#include "core/tensor/tensor.h"

struct CUstream_st;

namespace penstock::cuda {

inline constexpr int64_t kBatchTokens = 256;

// How the work is spread. REQUIRES: split * sharers <= 4.
struct BatchPlan {
  int rows = 0;     // of the weight, a block's at a time
  int split = 1;    // blocks that have parts of k
  int sharers = 1;  // blocks that share the copies of x
};

// The widths that a plan may have for so many tokens, and whether it can be run as it says: the
// blocks that split k have one tile each.
inline constexpr int kBatchRows[] = {64, 96, 128, 168, 192, 224, 256};
bool IsBatchPlan(const BatchPlan& plan, int64_t num_tokens, int64_t out_features);

// The plan of the least time by what was measured (tests/bench/results/2026-11-30_batch_linear.md).
BatchPlan ChooseBatchPlan(int64_t num_tokens, int64_t out_features, int64_t in_features);

// Whether these tensors are of the form above.
bool IsBatch(const Tensor& x, const Tensor& weight, const Tensor& out);

// REQUIRES: IsBatch, IsBatchPlan.
void LaunchBatchLinear(CUstream_st* stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out, const BatchPlan& plan);
void LaunchBatchLinear(CUstream_st* stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out);

}  // namespace penstock::cuda
