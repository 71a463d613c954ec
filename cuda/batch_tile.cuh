// batch_linear's kernel (batch_linear.h has what it computes and how the work is spread): a warp
// that fills the ring with tensor copies, one or two warpgroups that each have 64 tokens.
#pragma once

#include "cuda/cluster.cuh"
#include "cuda/device.cuh"
#include "cuda/tensor_map.h"
#include "cuda/token_product.cuh"

namespace penstock::cuda {

using BatchSlab = SwizzledTile<64>;  // of 64 k's: rows of 128 bytes

inline constexpr int kBatchSlabK = BatchSlab::kColumns;
inline constexpr int kBatchSlots = 24;
inline constexpr int kBatchShared = 227 << 10;
inline constexpr int kBatchBarriers = 512;
inline constexpr int kBatchRoom =
    kBatchShared - 1024 - kBatchBarriers;  // for the ring, then the parts
static_assert((2 * kBatchSlots + 1) * 8 <= kBatchBarriers);

struct BatchProblem {
  __nv_bfloat16* out;
  int64_t out_stride;
  int num_tokens;
  int out_features;
  int slabs;   // of k
  int x_rows;  // of a slab of x in the ring
  int slots;   // of the ring
  int split;
  int sharers;
  int burst;
  int early;  // slots of weights that are asked for before the inputs are there
};

// Sums go by columns of eight rows of the weight: those of each part's block.
__device__ __forceinline__ int FirstBatchColumn(int columns, int part, int split) {
  return columns * part / split;
}

// What this block does: its place in the cluster, its slabs of k, its tiles.
struct BatchShare {
  int part;    // of k
  int sharer;  // among those with the same k's
  int first_slab;
  int end_slab;
  int first_tile;  // in rounds of all clusters, `step` apart, below `end_tile`
  int end_tile;
  int step;

  __device__ BatchShare(const BatchProblem& problem, int rows) {
    const int size = problem.split * problem.sharers;
    const int cluster = static_cast<int>(blockIdx.x) / size;
    const int rank = static_cast<int>(blockIdx.x) % size;
    part = rank / problem.sharers;
    sharer = rank % problem.sharers;
    first_slab = problem.slabs * part / problem.split;
    end_slab = problem.slabs * (part + 1) / problem.split;
    const int tiles = (problem.out_features + rows - 1) / rows;
    // Sharers go on together: a tile beyond the last is one of zeros that nobody stores.
    const int groups = (tiles + problem.sharers - 1) / problem.sharers;
    first_tile = cluster * problem.sharers + sharer;
    end_tile = groups * problem.sharers;
    step = static_cast<int>(gridDim.x) / size * problem.sharers;
  }
  // Slabs that pass through the ring.
  __device__ __forceinline__ int Slabs() const {
    const int tiles = first_tile < end_tile ? (end_tile - first_tile + step - 1) / step : 0;
    return tiles * (end_slab - first_slab);
  }
};

struct BatchPlace {
  int slot = 0;
  unsigned parity = 0;

  __device__ __forceinline__ void Next(int slots) {
    if (++slot == slots) {
      slot = 0;
      parity ^= 1;
    }
  }
};

struct BatchRing {
  uint8_t* x;
  uint8_t* weights;
  uint64_t* full;
  uint64_t* empty;
};

// Slabs in the order in which they pass through the ring.
struct BatchSlabPlace {
  int tile;
  int slab;

  __device__ __forceinline__ void Next(const BatchShare& share) {
    if (++slab == share.end_slab) {
      slab = share.first_slab;
      tile += share.step;
    }
  }
};

// One warp.
template <int kRows>
__device__ void FillBatchRing(const BatchProblem& problem, const BatchShare& share,
                              const BatchRing& ring, const CUtensorMap& weights,
                              const CUtensorMap& activations) {
  const int total = share.Slabs();
  const int x_bytes = problem.x_rows * BatchSlab::kRowBytes;
  const int x_rows = problem.x_rows / problem.sharers;  // that this block brings
  const unsigned peers = ((1U << problem.sharers) - 1) << (share.part * problem.sharers);
  const uint64_t policy = EvictFirst();
  const auto load_weights = [&](int slot, const BatchSlabPlace& at) {
    if (ElectOne()) {
      ArriveExpecting(&ring.full[slot], kRows * BatchSlab::kRowBytes + x_bytes);
      TensorLoad(ring.weights + slot * kRows * BatchSlab::kRowBytes, &weights,
                 at.slab * kBatchSlabK, at.tile * kRows, &ring.full[slot], policy);
    }
    __syncwarp();
  };
  const auto load_x = [&](int slot, const BatchSlabPlace& at) {
    if (ElectOne()) {
      const int row = share.sharer * x_rows;
      uint8_t* to = ring.x + slot * x_bytes + row * BatchSlab::kRowBytes;
      if (problem.sharers > 1) {
        TensorLoadToAll(to, &activations, at.slab * kBatchSlabK, row, &ring.full[slot], peers);
      } else {
        TensorLoad(to, &activations, at.slab * kBatchSlabK, row, &ring.full[slot]);
      }
    }
    __syncwarp();
  };
  const BatchSlabPlace first = {share.first_tile, share.first_slab};
  const int ahead = min(total, problem.slots);
  BatchSlabPlace next = first;
  const auto load_first = [&](int slot, int end) {
    for (; slot < end; ++slot) {
      load_weights(slot, next);
      next.Next(share);
    }
  };
  load_first(0, min(ahead, problem.early));
  WaitForInputs();
  load_first(min(ahead, problem.early), ahead);
  if (problem.split * problem.sharers > 1) WaitForCluster();  // all barriers are made
  BatchSlabPlace at = first;
  for (int slot = 0; slot < ahead; ++slot) {
    load_x(slot, at);
    at.Next(share);
  }
  BatchPlace place;  // of what is to be emptied
  for (int i = ahead; i < total; i += problem.burst) {
    const int count = min(problem.burst, total - i);
    BatchPlace slots = place;
    for (int j = 0; j < count; ++j) {
      Wait(&ring.empty[slots.slot], slots.parity);
      slots.Next(problem.slots);
    }
    slots = place;
    for (int j = 0; j < count; ++j) {
      load_weights(slots.slot, next);
      next.Next(share);
      slots.Next(problem.slots);
    }
    for (int j = 0; j < count; ++j) {
      load_x(place.slot, at);
      at.Next(share);
      place.Next(problem.slots);
    }
  }
}

// One warpgroup's 64 tokens.
template <int kRows, int kGroups>
struct BatchSums {
  static constexpr int kThreads = kGroups * 128;
  static constexpr int kColumns = kRows / 8;

  float c[kRows / 2];

  // Sums up the slabs of one tile of rows. `left`: slabs that this block has still to release.
  __device__ __forceinline__ void Run(const BatchProblem& problem, const BatchShare& share,
                                      const BatchRing& ring, BatchPlace& place, int& left) {
    const int lane = threadIdx.x % 32;
    const uint32_t x = SharedAddress(ring.x) + threadIdx.x / 128 * 64 * BatchSlab::kRowBytes;
    const uint32_t weights = SharedAddress(ring.weights);
    const int x_bytes = problem.x_rows * BatchSlab::kRowBytes;
    // Only a slot that will be filled again: whoever is told waits for it, and has not ended.
    const auto release = [&](int slot) {
      if (left-- <= problem.slots) return;
      if (problem.sharers == 1) {
        if (lane == 0) Arrive(&ring.empty[slot]);
      } else if (lane < problem.sharers) {
        ArriveAt(AddressIn(SharedAddress(&ring.empty[slot]), share.part * problem.sharers + lane));
      }
    };
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) c[i] = 0;
    int before = -1;
    for (int slab = share.first_slab; slab < share.end_slab; ++slab) {
      Wait(&ring.full[place.slot], place.parity);
      const uint32_t a = x + place.slot * x_bytes;
      const uint32_t b = weights + place.slot * kRows * BatchSlab::kRowBytes;
      HoldRegisters(c);
      FenceProducts();
#pragma unroll
      for (int k = 0; k < kBatchSlabK; k += 16) {
        MultiplyTokens<kRows>(c, BatchSlab::AlongRows(a + k * 2), BatchSlab::AlongRows(b + k * 2));
      }
      CommitProducts();
      WaitForProducts<1>();
      if (before >= 0) release(before);
      before = place.slot;
      place.Next(problem.slots);
    }
    WaitForProducts<0>();
    HoldRegisters(c);
    if (before >= 0) release(before);
  }

  // Of eight rows of the weight, this thread's: two tokens, 8 apart, of two rows each.
  __device__ __forceinline__ void Store(const BatchProblem& problem, int first_row, int column,
                                        const float (&sum)[4]) const {
    const int token = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    const int row = first_row + column * 8 + threadIdx.x % 4 * 2;
    if (row >= problem.out_features) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (token + half * 8 < problem.num_tokens) {
        *reinterpret_cast<__nv_bfloat162*>(problem.out + (token + half * 8) * problem.out_stride +
                                           row) =
            __floats2bfloat162_rn(sum[half * 2], sum[half * 2 + 1]);
      }
    }
  }
  __device__ __forceinline__ void Store(const BatchProblem& problem, int first_row) const {
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      Store(problem, first_row, column,
            {c[column * 4], c[column * 4 + 1], c[column * 4 + 2], c[column * 4 + 3]});
    }
  }

  // The sums of other parts' columns go to their blocks, thread to thread: [sender][column -
  // first][thread], senders without the receiver.
  __device__ __forceinline__ void Send(const BatchProblem& problem, const BatchShare& share,
                                       const float4* parts, uint64_t* come) const {
    for (int away = 1; away < problem.split; ++away) {
      const int to = (share.part + away) % problem.split;
      const int first = FirstBatchColumn(kColumns, to, problem.split);
      const int end = FirstBatchColumn(kColumns, to + 1, problem.split);
      const int sender = share.part - (share.part > to ? 1 : 0);
      const int rank = to * problem.sharers + share.sharer;
      const float4* begin = parts + sender * (end - first) * kThreads + threadIdx.x;
      const uint32_t there = AddressIn(SharedAddress(begin), rank);
      const uint32_t barrier = AddressIn(SharedAddress(come), rank);
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        if (column < first || column >= end) continue;
        StoreAt(there + (column - first) * kThreads * 16, c[column * 4], c[column * 4 + 1],
                c[column * 4 + 2], c[column * 4 + 3], barrier);
      }
    }
  }

  // Adds up this part's columns, in the order of the parts, and stores them.
  __device__ __forceinline__ void AddUp(const BatchProblem& problem, const BatchShare& share,
                                        const float4* parts, int first_row) const {
    const int first = FirstBatchColumn(kColumns, share.part, problem.split);
    const int end = FirstBatchColumn(kColumns, share.part + 1, problem.split);
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      if (column < first || column >= end) continue;
      float sum[4] = {};
      for (int part = 0; part < problem.split; ++part) {
        float4 add = {c[column * 4], c[column * 4 + 1], c[column * 4 + 2], c[column * 4 + 3]};
        if (part != share.part) {
          const int sender = part - (part > share.part ? 1 : 0);
          add = parts[(sender * (end - first) + column - first) * kThreads + threadIdx.x];
        }
        sum[0] += add.x;
        sum[1] += add.y;
        sum[2] += add.z;
        sum[3] += add.w;
      }
      Store(problem, first_row, column, sum);
    }
  }
};

template <int kRows, int kGroups>
__global__ void __launch_bounds__(kGroups * 128 + 32, 1)
    BatchLinearKernel(const __grid_constant__ BatchProblem problem,
                      const __grid_constant__ CUtensorMap weights,
                      const __grid_constant__ CUtensorMap activations) {
  extern __shared__ uint8_t bytes[];
  using Sums = BatchSums<kRows, kGroups>;
  uint8_t* room = bytes + (-SharedAddress(bytes) & 1023);  // swizzling goes by the address
  BatchRing ring;
  ring.x = room;
  ring.weights = room + problem.slots * problem.x_rows * BatchSlab::kRowBytes;
  const auto* parts =
      reinterpret_cast<const float4*>(ring.weights + problem.slots * kRows * BatchSlab::kRowBytes);
  ring.full = reinterpret_cast<uint64_t*>(room + kBatchRoom);
  ring.empty = ring.full + kBatchSlots;
  uint64_t* come = ring.empty + kBatchSlots;  // the other parts
  const BatchShare share(problem, kRows);
  const bool is_cluster = problem.split * problem.sharers > 1;
  LetNextBegin();
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < problem.slots; ++slot) {
      MakeBarrier(&ring.full[slot], 1);
      MakeBarrier(&ring.empty[slot], kGroups * 4 * problem.sharers);
    }
    MakeBarrier(come, 1);
    FenceBarriers();
    if (problem.split > 1) {
      const int columns = FirstBatchColumn(Sums::kColumns, share.part + 1, problem.split) -
                          FirstBatchColumn(Sums::kColumns, share.part, problem.split);
      ArriveExpecting(come, (problem.split - 1) * columns * Sums::kThreads * 16);
    }
  }
  __syncthreads();
  if (is_cluster) ArriveAtCluster();
  if (threadIdx.x >= Sums::kThreads) {
    if (ElectOne()) PrefetchMap(&activations);
    __syncwarp();
    FillBatchRing<kRows>(problem, share, ring, weights, activations);
  } else {
    Sums sums;
    BatchPlace place;
    int left = share.Slabs();
    WaitForInputs();
    if (is_cluster) WaitForCluster();
    if (problem.split > 1) {  // one tile
      sums.Run(problem, share, ring, place, left);
      sums.Send(problem, share, parts, come);
      WaitForStores(come, 0);
      sums.AddUp(problem, share, parts, share.first_tile * kRows);
    } else {
      for (int tile = share.first_tile; tile < share.end_tile; tile += share.step) {
        sums.Run(problem, share, ring, place, left);
        sums.Store(problem, tile * kRows);
      }
    }
  }
}

}  // namespace penstock::cuda
