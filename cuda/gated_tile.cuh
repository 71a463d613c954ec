// gated_linear's kernel (gated_linear.h has what it computes and how the work is spread).
#pragma once

#include "cuda/batch_tile.cuh"
#include "cuda/swiglu.cuh"

namespace penstock::cuda {

struct GatedProblem {
  BatchRing ring;
  __nv_bfloat16* out;
  int64_t out_stride;
  int width;
  int steps;  // through k, of a slab
  RowFactors norm;
};

// Copies slab `slab` of the box of MakeGatedMap's that begins at that group of eight rows.
__device__ __forceinline__ void LoadGated(void* shared, const void* map, int slab, int group,
                                          uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {0, 0, %3, 0, %4}], [%2], %5;" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(slab), "r"(group), "l"(policy)
      : "memory");
}

// A tile's rows in shared memory, and in the columns of c: eight of gate's, the same eight of up's,
// the next eight. Of two tokens, 8 apart, the columns `column` and the next, and 8 on. Nothing is
// computed of rows without a token: what stands there may make quotients slow.
template <int N>
__device__ __forceinline__ void StoreGated(const GatedProblem& problem, const float (&c)[N / 2],
                                           const float (&factors)[2], int column, int token) {
  __nv_bfloat16* row = problem.out + token * problem.out_stride + column;
#pragma unroll
  for (int i = 0; i < N / 2; i += 8) {
    if (column + i >= problem.width) break;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (token + half * 8 >= problem.ring.num_tokens) continue;
      const int at = i + half * 2;
      const float by = factors[half];
      const float2 gate = __bfloat1622float2(__floats2bfloat162_rn(c[at] * by, c[at + 1] * by));
      const float2 up = __bfloat1622float2(__floats2bfloat162_rn(c[at + 4] * by, c[at + 5] * by));
      *reinterpret_cast<__nv_bfloat162*>(row + half * 8 * problem.out_stride + i) =
          __floats2bfloat162_rn(Swiglu(gate.x, up.x), Swiglu(gate.y, up.y));
    }
  }
}

template <int N, int kTokenGroups, int kRowGroups>
__global__ void __launch_bounds__(BatchTile<N, kTokenGroups, kRowGroups>::kThreads, 1)
    GatedLinearKernel(const __grid_constant__ GatedProblem problem,
                      const __grid_constant__ CUtensorMap weight_map,
                      const __grid_constant__ CUtensorMap x_map) {
  extern __shared__ __align__(16) uint8_t bytes[];
  using Tile = BatchTile<N, kTokenGroups, kRowGroups>;
  const int tiles = (problem.width * 2 + Tile::kRows - 1) / Tile::kRows;
  const Tile tile(
      problem.ring,
      {static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x), tiles, 0, problem.steps}, bytes);
  LetNextBegin();
  if (threadIdx.x == 0) tile.MakeBarriers();
  if (threadIdx.x == 32) {
    PrefetchMap(&weight_map);
    PrefetchMap(&x_map);
  }
  __syncthreads();
  if (Tile::IsFiller()) {
    const uint64_t policy = EvictFirst();
    tile.Fill(x_map, [&](void* shared, int of_tile, int step, uint64_t* barrier) {
      LoadGated(shared, &weight_map, step, of_tile * (Tile::kRows / 16), barrier, policy);
    });
    return;
  }
  WaitForInputs();
  const int token = Tile::Token();
  const float factors[2] = {problem.norm.Of(token, problem.ring.num_tokens),
                            problem.norm.Of(token + 8, problem.ring.num_tokens)};
  BatchPlace at(tile.walk);
  int left = tile.walk.Total();
#pragma unroll 1
  for (int of_tile = tile.walk.tile; of_tile < tiles; of_tile += tile.walk.round) {
    float c[N / 2];
    tile.Sum(c, at, left);
    StoreGated<N>(problem, c, factors,
                  of_tile * (Tile::kRows / 2) + Tile::RowGroup() * (N / 2) +
                      static_cast<int>(threadIdx.x) % 4 * 2,
                  token);
  }
}

}  // namespace penstock::cuda
