// gated_linear's kernel (gated_linear.h has what it computes and how the work is spread): one warp
// that fills the ring with tensor copies, warpgroups that each have 64 tokens and N rows of a tile.
#pragma once

#include "cuda/cluster.cuh"
#include "cuda/device.cuh"
#include "cuda/swiglu.cuh"
#include "cuda/tensor_map.h"
#include "cuda/token_product.cuh"

namespace penstock::cuda {

using GatedSlab = SwizzledTile<64>;  // of 64 k's: rows of 128 bytes

inline constexpr int kGatedSlabK = GatedSlab::kColumns;
inline constexpr int kGatedSlots = 8;
inline constexpr int kGatedShared = 227 << 10;
inline constexpr int kGatedRoom = kGatedShared - 1024 - 2 * kGatedSlots * 8;  // for the ring

struct GatedProblem {
  __nv_bfloat16* out;
  int64_t out_stride;
  int num_tokens;
  int width;
  int steps;   // through k, of as many slabs as are copied together
  int x_rows;  // of a slab of x in the ring
  int slots;   // of the ring
  int sharers;
  int early;
  int first_round;  // -1: one without products and stores, for the sake of the code
};

// A tile's rows in shared memory, and in the columns of c: eight of gate's, the same eight of up's,
// the next eight. Eight rows of one slab, then of the next, if several are copied together.
template <int N, int kTokenGroups, int kRowGroups, int kSlabs>
struct GatedTile {
  static constexpr int kRows = N * kRowGroups;
  static constexpr int kGroups = kTokenGroups * kRowGroups;
  static constexpr int kThreads = kGroups * 128 + 32;
  static constexpr int kWeightBytes = kRows * GatedSlab::kRowBytes * kSlabs;

  uint8_t* x;  // [slot][slab][x_rows], then a slot's weights
  uint8_t* weights;
  uint64_t* full;
  uint64_t* empty;
  int tile;   // the first of this block
  int end;    // tiles, with those of zeros that a sharer goes along with
  int total;  // of steps
  int x_bytes;

  __device__ __forceinline__ GatedTile(const GatedProblem& problem, uint8_t* bytes) {
    uint8_t* room = bytes + (-SharedAddress(bytes) & 1023);  // swizzling goes by the address
    x_bytes = kSlabs * problem.x_rows * GatedSlab::kRowBytes;
    x = room;
    weights = room + problem.slots * x_bytes;
    full = reinterpret_cast<uint64_t*>(room + kGatedRoom);
    empty = full + kGatedSlots;
    tile = static_cast<int>(blockIdx.x);
    end = (problem.width * 2 + kRows - 1) / kRows;
    end = (end + problem.sharers - 1) / problem.sharers * problem.sharers;
    total = (end - tile + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x) *
            problem.steps;
  }

  // By thread 0.
  __device__ __forceinline__ void MakeBarriers(const GatedProblem& problem) const {
#pragma unroll 1
    for (int slot = 0; slot < problem.slots; ++slot) {
      MakeBarrier(&full[slot], 1);
      MakeBarrier(&empty[slot], kGroups * 4 * problem.sharers);
    }
    FenceBarriers();
  }

  // The warp that fills the ring.
  __device__ __forceinline__ void Fill(const GatedProblem& problem, const CUtensorMap& weight_map,
                                       const CUtensorMap& x_map) const {
    const uint64_t policy = EvictFirst();
    const int sharer = static_cast<int>(blockIdx.x) % problem.sharers;
    const int x_rows = problem.x_rows / problem.sharers;  // that this block brings
    const auto load_weights = [&](int slot, int of_tile, int step) {
      if (ElectOne()) {
        ArriveExpecting(&full[slot], kWeightBytes + x_bytes);
        asm volatile(
            "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
            ".L2::cache_hint [%0], [%1, {0, 0, %3, 0, %4}], [%2], %5;" ::"r"(
                SharedAddress(weights + slot * kWeightBytes)),
            "l"(&weight_map), "r"(SharedAddress(&full[slot])), "r"(step * kSlabs),
            "r"(of_tile * (kRows / 16)), "l"(policy)
            : "memory");
      }
      __syncwarp();
    };
    const auto load_x = [&](int slot, int step) {
      if (ElectOne()) {
#pragma unroll
        for (int slab = 0; slab < kSlabs; ++slab) {
          uint8_t* to =
              x + slot * x_bytes + (slab * problem.x_rows + sharer * x_rows) * GatedSlab::kRowBytes;
          const int column = (step * kSlabs + slab) * kGatedSlabK;
          if (problem.sharers > 1) {
            TensorLoadToAll(to, &x_map, column, sharer * x_rows, &full[slot], 3);
          } else {
            TensorLoad(to, &x_map, column, 0, &full[slot]);
          }
        }
      }
      __syncwarp();
    };
    const int early = min(problem.early, total);
#pragma unroll 1
    for (int i = 0; i < early; ++i) load_weights(i, tile, i);
    WaitForInputs();
    if (problem.sharers > 1) WaitForCluster();
    int slot = 0;
    unsigned parity = 1;
    int of_tile = tile;
    int step = 0;
#pragma unroll 1
    for (int i = 0; i < total; ++i) {
      if (i >= early) {
        if (i >= problem.slots) Wait(&empty[slot], parity);
        load_weights(slot, of_tile, step);
      }
      load_x(slot, step);
      if (++slot == problem.slots) {
        slot = 0;
        parity ^= 1;
      }
      if (++step == problem.steps) {
        step = 0;
        of_tile += static_cast<int>(gridDim.x);
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
    const uint32_t my_weights =
        SharedAddress(weights) + row_group * N * GatedSlab::kRowBytes * kSlabs;
    int left = total;
    // Only a slot that will be filled again: whoever is told waits for it, and has not ended.
    const auto release = [&](int slot) {
      if (left-- <= problem.slots) return;
      if (problem.sharers == 1) {
        if (lane == 0) Arrive(&empty[slot]);
      } else if (lane < problem.sharers) {
        ArriveIn(lane, &empty[slot]);
      }
    };
    int slot = 0;
    unsigned parity = 0;
    int of_tile = tile + problem.first_round * static_cast<int>(gridDim.x);
#pragma unroll 1
    for (; of_tile < end; of_tile += static_cast<int>(gridDim.x)) {
      float c[N / 2];
#pragma unroll
      for (int i = 0; i < N / 2; ++i) c[i] = 0;
      const bool is_real = of_tile >= tile;
      if (is_real) {
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
          for (int slab = 0; slab < kSlabs; ++slab) {
#pragma unroll
            for (int k = 0; k < kGatedSlabK; k += 16) {
              const uint32_t of_slab = a + slab * problem.x_rows * GatedSlab::kRowBytes;
              MultiplyTokens<N>(c, GatedSlab::AlongRows(of_slab + k * 2),
                                GatedSlab::Descriptor(b + slab * 1024 + k * 2, 16, kSlabs * 1024));
            }
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
      }
      Store(problem, c, of_tile * (kRows / 2) + row_group * (N / 2) + lane % 4 * 2,
            token_group * 64 + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4,
            is_real ? problem.num_tokens : 0);
    }
  }

  // Of two tokens, 8 apart, the columns `column` and the next, and 8 on.
  __device__ __forceinline__ void Store(const GatedProblem& problem, const float (&c)[N / 2],
                                        int column, int token, int num_tokens) const {
    __nv_bfloat16* row = problem.out + token * problem.out_stride + column;
#pragma unroll
    for (int i = 0; i < N / 2; i += 8) {
      __nv_bfloat162 result[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = i + half * 2;
        const float2 gate = __bfloat1622float2(__floats2bfloat162_rn(c[at], c[at + 1]));
        const float2 up = __bfloat1622float2(__floats2bfloat162_rn(c[at + 4], c[at + 5]));
        result[half] = __floats2bfloat162_rn(Swiglu(gate.x, up.x), Swiglu(gate.y, up.y));
      }
      if (column + i >= problem.width) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (token + half * 8 >= num_tokens) continue;
        *reinterpret_cast<__nv_bfloat162*>(row + half * 8 * problem.out_stride + i) = result[half];
      }
    }
  }
};

template <int N, int kTokenGroups, int kRowGroups, int kSlabs>
__global__ void __launch_bounds__(GatedTile<N, kTokenGroups, kRowGroups, kSlabs>::kThreads, 1)
    GatedLinearKernel(const __grid_constant__ GatedProblem problem,
                      const __grid_constant__ CUtensorMap weight_map,
                      const __grid_constant__ CUtensorMap x_map) {
  extern __shared__ uint8_t bytes[];
  using Tile = GatedTile<N, kTokenGroups, kRowGroups, kSlabs>;
  const Tile tile(problem, bytes);
  LetNextBegin();
  if (threadIdx.x == 0) tile.MakeBarriers(problem);
  __syncthreads();
  if (problem.sharers > 1) ArriveAtCluster();
  if (threadIdx.x >= Tile::kGroups * 128) {
    tile.Fill(problem, weight_map, x_map);
  } else {
    if (problem.sharers > 1) WaitForCluster();
    tile.Empty(problem);
  }
}

}  // namespace penstock::cuda
