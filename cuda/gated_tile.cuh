// gated_linear's kernel (gated_linear.h has what it computes and how the work is spread): one warp
// that fills the ring with tensor copies, warpgroups that each have 64 tokens and N rows of a tile.
#pragma once

#include "cuda/bulk_copy.cuh"
#include "cuda/device.cuh"
#include "cuda/swiglu.cuh"
#include "cuda/tensor_map.h"
#include "cuda/token_product.cuh"

namespace penstock::cuda {

using GatedSlab = SwizzledTile<64>;  // of 64 k's: rows of 128 bytes

inline constexpr int kGatedSlots = 8;
inline constexpr int kGatedBarriers = 2 * kGatedSlots * 8;              // bytes, before the ring
inline constexpr int kGatedRoom = (227 << 10) - 1024 - kGatedBarriers;  // for the ring

struct GatedProblem {
  __nv_bfloat16* out;
  int64_t out_stride;
  int num_tokens;
  int width;
  int steps;   // through k, of a slab
  int x_rows;  // of a slab of x in the ring
  int slots;   // of the ring
  int early;   // of the first tile's steps
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
// the next eight.
template <int N, int kTokenGroups, int kRowGroups>
struct GatedTile {
  static constexpr int kRows = N * kRowGroups;
  static constexpr int kGroups = kTokenGroups * kRowGroups;
  static constexpr int kThreads = kGroups * 128 + 32;
  static constexpr int kWeightBytes = kRows * GatedSlab::kRowBytes;

  uint64_t* full;
  uint64_t* empty;
  uint8_t* x;  // [slot][x_rows], then
  uint8_t* weights;
  int tile;   // the first of this block
  int total;  // of steps
  int x_bytes;

  __device__ __forceinline__ GatedTile(const GatedProblem& problem, uint8_t* bytes) {
    full = reinterpret_cast<uint64_t*>(bytes);
    empty = full + kGatedSlots;
    x = bytes + kGatedBarriers;
    x += -SharedAddress(x) & 1023;  // swizzling goes by the address
    x_bytes = problem.x_rows * GatedSlab::kRowBytes;
    weights = x + problem.slots * x_bytes;
    tile = static_cast<int>(blockIdx.x);
    total = (Tiles(problem) - tile + Round() - 1) / Round() * problem.steps;
  }
  // Tiles from one of a block's to its next.
  __device__ static __forceinline__ int Round() { return static_cast<int>(gridDim.x); }
  __device__ static __forceinline__ int Tiles(const GatedProblem& problem) {
    return (problem.width * 2 + kRows - 1) / kRows;
  }

  // By thread 0.
  __device__ __forceinline__ void MakeBarriers(const GatedProblem& problem) const {
#pragma unroll 1
    for (int slot = 0; slot < problem.slots; ++slot) {
      MakeBarrier(&full[slot], 1);
      MakeBarrier(&empty[slot], kGroups * 4);
    }
    FenceBarriers();
  }

  __device__ __forceinline__ void LoadWeights(const CUtensorMap& map, int slot, int of_tile,
                                              int step, uint64_t policy) const {
    if (ElectOne()) {
      ArriveExpecting(&full[slot], kWeightBytes + x_bytes);
      LoadGated(weights + slot * kWeightBytes, &map, step, of_tile * (kRows / 16), &full[slot],
                policy);
    }
    __syncwarp();
  }

  // The warp that fills the ring.
  __device__ __forceinline__ void Fill(const GatedProblem& problem, const CUtensorMap& weight_map,
                                       const CUtensorMap& x_map) const {
    const uint64_t policy = EvictFirst();
#pragma unroll 1
    for (int i = 0; i < min(problem.early, total); ++i) {
      LoadWeights(weight_map, i, tile, i, policy);
    }
    WaitForInputs();
    int slot = 0;
    unsigned parity = 1;
    int of_tile = tile;
    int step = 0;
#pragma unroll 1
    for (int i = 0; i < total; ++i) {
      if (i >= problem.early) {
        if (i >= problem.slots) Wait(&empty[slot], parity);
        LoadWeights(weight_map, slot, of_tile, step, policy);
      }
      if (ElectOne()) {
        TensorLoad(x + slot * x_bytes, &x_map, step * GatedSlab::kColumns, 0, &full[slot]);
      }
      __syncwarp();
      if (++slot == problem.slots) {
        slot = 0;
        parity ^= 1;
      }
      if (++step == problem.steps) {
        step = 0;
        of_tile += Round();
      }
    }
  }

  // A warpgroup that empties it.
  __device__ __forceinline__ void Empty(const GatedProblem& problem) const {
    const int group = static_cast<int>(threadIdx.x) / 128;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int token_group = group % kTokenGroups;
    const int row_group = group / kTokenGroups;
    const uint32_t my_x = SharedAddress(x) + token_group * 64 * GatedSlab::kRowBytes;
    const uint32_t my_weights = SharedAddress(weights) + row_group * N * GatedSlab::kRowBytes;
    int left = total;
    // Only a slot that will be filled again.
    const auto release = [&](int slot) {
      if (left-- > problem.slots && lane == 0) Arrive(&empty[slot]);
    };
    int slot = 0;
    unsigned parity = 0;
#pragma unroll 1
    for (int of_tile = tile; of_tile < Tiles(problem); of_tile += Round()) {
      float c[N / 2];
#pragma unroll
      for (int i = 0; i < N / 2; ++i) c[i] = 0;
      WaitForInputs();  // as the writes of this tile must
      int before = -1;
#pragma unroll 1
      for (int step = 0; step < problem.steps; ++step) {
        Wait(&full[slot], parity);
        const uint32_t a = my_x + slot * x_bytes;
        const uint32_t b = my_weights + slot * kWeightBytes;
        HoldRegisters(c);
        FenceProducts();
#pragma unroll
        for (int k = 0; k < GatedSlab::kColumns; k += 16) {
          MultiplyTokens<N>(c, GatedSlab::AlongRows(a + k * 2), GatedSlab::AlongRows(b + k * 2));
        }
        CommitProducts();
        WaitForProducts<1>();
        if (before >= 0) release(before);
        before = slot;
        if (++slot == problem.slots) {
          slot = 0;
          parity ^= 1;
        }
      }
      WaitForProducts<0>();
      HoldRegisters(c);
      release(before);
      Store(problem, c, of_tile * (kRows / 2) + row_group * (N / 2) + lane % 4 * 2,
            token_group * 64 + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4);
    }
  }

  // Of two tokens, 8 apart, the columns `column` and the next, and 8 on. Nothing is computed of
  // rows without a token: what stands there may make quotients slow.
  __device__ __forceinline__ void Store(const GatedProblem& problem, const float (&c)[N / 2],
                                        int column, int token) const {
    __nv_bfloat16* row = problem.out + token * problem.out_stride + column;
#pragma unroll
    for (int i = 0; i < N / 2; i += 8) {
      if (column + i >= problem.width) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (token + half * 8 >= problem.num_tokens) continue;
        const int at = i + half * 2;
        const float2 gate = __bfloat1622float2(__floats2bfloat162_rn(c[at], c[at + 1]));
        const float2 up = __bfloat1622float2(__floats2bfloat162_rn(c[at + 4], c[at + 5]));
        *reinterpret_cast<__nv_bfloat162*>(row + half * 8 * problem.out_stride + i) =
            __floats2bfloat162_rn(Swiglu(gate.x, up.x), Swiglu(gate.y, up.y));
      }
    }
  }
};

template <int N, int kTokenGroups, int kRowGroups>
__global__ void __launch_bounds__(GatedTile<N, kTokenGroups, kRowGroups>::kThreads, 1)
    GatedLinearKernel(const __grid_constant__ GatedProblem problem,
                      const __grid_constant__ CUtensorMap weight_map,
                      const __grid_constant__ CUtensorMap x_map) {
  extern __shared__ __align__(16) uint8_t bytes[];
  using Tile = GatedTile<N, kTokenGroups, kRowGroups>;
  const Tile tile(problem, bytes);
  LetNextBegin();
  if (threadIdx.x == 0) tile.MakeBarriers(problem);
  if (threadIdx.x == 32) {
    PrefetchMap(&weight_map);
    PrefetchMap(&x_map);
  }
  __syncthreads();
  if (threadIdx.x >= Tile::kGroups * 128) {
    tile.Fill(problem, weight_map, x_map);
  } else {
    tile.Empty(problem);
  }
}

}  // namespace penstock::cuda
