// What the products of a batch's decoding tokens share (gated_linear.h, batch_linear.h): a ring in
// shared memory that one warp fills with slabs of 64 k's of a weight's rows and of x, by tensor
// copies, and warpgroups that each have 64 tokens and N of a tile's rows. Tokens are the 64 rows of
// their products and the weight's rows the columns, so that a tile may have any multiple of 8 rows.
#pragma once

#include "cuda/bulk_copy.cuh"
#include "cuda/device.cuh"
#include "cuda/row_factors.cuh"
#include "cuda/tensor_map.h"
#include "cuda/token_product.cuh"

namespace penstock::cuda {

using BatchSlab = SwizzledTile<64>;  // of 64 k's: rows of 128 bytes

inline constexpr int kBatchSlots = 16;
inline constexpr int kBatchBarriers = 2 * kBatchSlots * 8;              // bytes, before the ring
inline constexpr int kBatchRoom = (227 << 10) - 1024 - kBatchBarriers;  // for the ring

struct BatchRing {
  int num_tokens;
  int x_rows;  // of a slab of x in the ring
  int slots;
  int early;  // slabs of the weight that are asked for before the inputs are there
  int burst;  // slabs that are asked for together
};

// A block's tiles, and its steps through k, of a slab each.
struct BatchWalk {
  int tile;   // its first
  int round;  // from one of its tiles to the next
  int tiles;  // of all blocks
  int first;  // step of each tile
  int steps;  // of each tile

  __device__ __forceinline__ int Total() const {
    return (tiles - tile + round - 1) / round * steps;
  }
};

// Where a warp is in a block's steps and in the ring.
struct BatchPlace {
  int tile;
  int step;
  int slot = 0;
  unsigned parity = 0;

  __device__ __forceinline__ explicit BatchPlace(const BatchWalk& walk)
      : tile(walk.tile), step(walk.first) {}
  __device__ __forceinline__ void Next(const BatchWalk& walk, int slots) {
    if (++slot == slots) {
      slot = 0;
      parity ^= 1;
    }
    if (++step == walk.first + walk.steps) {
      step = walk.first;
      tile += walk.round;
    }
  }
};

template <int N, int kTokenGroups, int kRowGroups>
struct BatchTile {
  static constexpr int kRows = N * kRowGroups;
  static constexpr int kGroups = kTokenGroups * kRowGroups;
  static constexpr int kThreads = kGroups * 128 + 32;
  static constexpr int kWeightBytes = kRows * BatchSlab::kRowBytes;

  const BatchRing& ring;
  const BatchWalk walk;
  uint64_t* full;
  uint64_t* empty;
  uint8_t* x;  // [slot][x_rows], then
  uint8_t* weights;
  int x_bytes;

  __device__ __forceinline__ BatchTile(const BatchRing& r, const BatchWalk& w, uint8_t* bytes)
      : ring(r), walk(w) {
    full = reinterpret_cast<uint64_t*>(bytes);
    empty = full + kBatchSlots;
    x = bytes + kBatchBarriers;
    x += -SharedAddress(x) & 1023;  // swizzling goes by the address
    x_bytes = ring.x_rows * BatchSlab::kRowBytes;
    weights = x + ring.slots * x_bytes;
  }
  __device__ static __forceinline__ bool IsFiller() { return threadIdx.x >= kGroups * 128; }
  __device__ static __forceinline__ int Group() { return static_cast<int>(threadIdx.x) / 128; }
  __device__ static __forceinline__ int TokenGroup() { return Group() % kTokenGroups; }
  __device__ static __forceinline__ int RowGroup() { return Group() / kTokenGroups; }
  // The thread's sums are of this token and the one 8 on.
  __device__ static __forceinline__ int Token() {
    const int thread = static_cast<int>(threadIdx.x) % 128;
    return TokenGroup() * 64 + thread / 32 * 16 + thread % 32 / 4;
  }

  // By thread 0.
  __device__ __forceinline__ void MakeBarriers() const {
#pragma unroll 1
    for (int slot = 0; slot < ring.slots; ++slot) {
      MakeBarrier(&full[slot], 1);
      MakeBarrier(&empty[slot], kGroups * 4);
    }
    FenceBarriers();
  }

  // The warp that fills the ring. load(shared, tile, step, barrier) begins the copy of a slab of a
  // tile's rows; one thread.
  template <typename Load>
  __device__ __forceinline__ void Fill(const CUtensorMap& x_map, const Load& load) const {
    const int total = walk.Total();
    BatchPlace next(walk);  // of the weight
    const auto load_weights = [&](int count) {
#pragma unroll 1
      for (int i = 0; i < count; ++i) {
        if (ElectOne()) {
          ArriveExpecting(&full[next.slot], kWeightBytes + x_bytes);
          load(weights + next.slot * kWeightBytes, next.tile, next.step, &full[next.slot]);
        }
        __syncwarp();
        next.Next(walk, ring.slots);
      }
    };
    load_weights(min(ring.early, total));
    WaitForInputs();
    BatchPlace at(walk);  // of x
#pragma unroll 1
    for (int i = 0; i < total; i += ring.burst) {
      const int end = min(i + ring.burst, total);
      BatchPlace emptied = at;
#pragma unroll 1
      for (int j = i; j < end; ++j) {
        if (j >= ring.slots) Wait(&empty[emptied.slot], emptied.parity ^ 1);
        emptied.Next(walk, ring.slots);
      }
      load_weights(end - max(i, min(ring.early, end)));
#pragma unroll 1
      for (int j = i; j < end; ++j) {
        if (ElectOne()) {
          TensorLoad(x + at.slot * x_bytes, &x_map, at.step * BatchSlab::kColumns, 0,
                     &full[at.slot]);
        }
        __syncwarp();
        at.Next(walk, ring.slots);
      }
    }
  }

  // c = the sums of one tile, by a warpgroup. `left`: steps that this block has still to release.
  __device__ __forceinline__ void Sum(float (&c)[N / 2], BatchPlace& at, int& left) const {
    const uint32_t my_x = SharedAddress(x) + TokenGroup() * 64 * BatchSlab::kRowBytes;
    const uint32_t my_weights = SharedAddress(weights) + RowGroup() * N * BatchSlab::kRowBytes;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    // Only a slot that will be filled again.
    const auto release = [&](int slot) {
      if (left-- > ring.slots && lane == 0) Arrive(&empty[slot]);
    };
#pragma unroll
    for (int i = 0; i < N / 2; ++i) c[i] = 0;
    int before = -1;
#pragma unroll 1
    for (int i = 0; i < walk.steps; ++i) {
      Wait(&full[at.slot], at.parity);
      const uint32_t a = my_x + at.slot * x_bytes;
      const uint32_t b = my_weights + at.slot * kWeightBytes;
      HoldRegisters(c);
      FenceProducts();
#pragma unroll
      for (int k = 0; k < BatchSlab::kColumns; k += 16) {
        MultiplyTokens<N>(c, BatchSlab::AlongRows(a + k * 2), BatchSlab::AlongRows(b + k * 2));
      }
      CommitProducts();
      WaitForProducts<1>();
      if (before >= 0) release(before);
      before = at.slot;
      at.Next(walk, ring.slots);
    }
    WaitForProducts<0>();
    HoldRegisters(c);
    release(before);
  }
};

}  // namespace penstock::cuda
