// gated_linear: the product of gate and up and swiglu, of a batch's decoding tokens, as one kernel.
//   out[t, j] = swiglu(sum_k x[t, k] * weight[j, k], sum_k x[t, k] * weight[width + j, k])
// x [num_tokens, in_features], weight [gate's rows, then up's: 2 * width, in_features], out
// [num_tokens, width] bf16; both sums f32, rounded to bf16 before swiglu. num_tokens <= 256,
// in_features a multiple of 64, width of 8; x and weight dense, rows of out may be strided.
//
// What lives where. A block has a tile of up to 224 rows, eight of gate's and eight of up's in
// turns, and all tokens. Slabs of 64 k's of both stream through a ring in shared memory by tensor
// copies; a warpgroup has the sums of 64 tokens and 96 to 176 rows in registers, gate's beside
// up's. Tokens are the 64 rows of its products and the weight's rows their columns, so that a tile
// may have any multiple of 16 rows: tiles are shared out in whole rounds of the multiprocessors.
// The kernel begins while the one before it runs (programmatic dependent launch): with the first
// weights.
//
// An element's sums are chains of 16 products, k ascending, as sum_chain.h has them: the bits do
// not depend on the plan or the batch.
// Bytes: the weight's, once, x's from level 2 for each tile. Flops: 4 * num_tokens *
// width * in_features.
#pragma once

#include "core/tensor/tensor.h"
#include "cuda/deferred_norm.h"

struct CUstream_st;

namespace penstock::cuda {

inline constexpr int64_t kGatedTokens = 256;

// How the work is spread.
struct GatedPlan {
  int rows = 0;   // of a tile: 192 or 224 of up to 128 tokens, 112 or 176 of up to 192, 112
  int slots = 8;  // of the ring, at most
};

// Whether a plan can be run.
bool IsGatedPlan(const GatedPlan& plan, int64_t num_tokens);
// What had the least time in steps (tests/bench/results/2026-11-30_gated_batches.md).
// REQUIRES: num_tokens <= kGatedTokens.
GatedPlan ChooseGatedPlan(int64_t num_tokens, int64_t width);

// Whether these tensors are of the form above.
bool IsGated(const Tensor& x, const Tensor& weight, const Tensor& out);
// Whether it beats cuBLASLt's product and swiglu: 17 tokens or more, and tiles that fill most of
// the GPU in whole rounds.
bool IsGatedFast(const Tensor& x, const Tensor& out);

// REQUIRES: IsGated, IsGatedPlan. With a deferred norm both sums are multiplied by their row's
// factor before they are rounded.
void LaunchGatedBatch(CUstream_st* stream, const Tensor& x, const Tensor& weight, const Tensor& out,
                      const GatedPlan& plan, const DeferredNorm& norm = {});

}  // namespace penstock::cuda
