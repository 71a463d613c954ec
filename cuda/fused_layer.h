// fused_layer (core/kernels/fused_layer.h) of a batch's decoding tokens: four products, two norms
// and swiglu in one kernel that never stops reading weights. bf16; up to 128 tokens, hidden a
// multiple of 64 and at most 8192, the other widths multiples of 64.
//
// What lives where. Each multiprocessor has one block. A warp of it streams its shares of the four
// weights, one behind the other, through a ring in shared memory by tensor copies; a second one
// brings the slabs of x beside them, once the grid is done with what makes x. So while a product
// ends, its partial sums meet and a row is normed, the next product's weights are under way:
// 20 MB of them. Warpgroups each have 64 tokens and a tile's rows, half or all of them, in
// registers. Of narrow products k is split too, so that every multiprocessor has a part: sums of
// parts go through level 2 and are added up in order by what reads them. All of the grid's blocks
// are there at once (cooperative launch) and meet at counters in device memory.
//
// Sums: each part in k's order, parts in order: the same bits in every run, and not those of
// `linear`. Norms add up squares by thread, warp and block.
// Bytes: the weights', once; from level 2 x's for each tile and the parts' sums.
#pragma once

#include "core/kernels/fused_layer.h"

struct CUstream_st;

namespace penstock::cuda {

inline constexpr int64_t kFusedTokens = 128;

// Bytes of memory that the kernel wants on the current device; zero when it is first used.
int64_t FusedLayerWorkspace();

// Whether the kernel takes these, and its tiles fill the GPU so that it is the faster way.
bool IsFusedLayer(const FusedLayerArgs& args);

// REQUIRES: IsFusedLayer, but for how well its tiles fill the GPU; a workspace that no other call
// uses meanwhile.
void LaunchFusedLayer(CUstream_st* stream, const FusedLayerArgs& args, const Tensor& workspace);

}  // namespace penstock::cuda
