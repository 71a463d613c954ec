// flash_attention's kernel for f16 and bf16: 128 queries of one head meet tiles of 128 positions,
// two pages, on the tensor cores (warpgroup_mma.cuh).
//
// What lives where. A block has two warpgroups, each with 64 of the queries, and a third that gives
// its registers to them; one of its threads copies pages into two rings of two tiles, of keys and
// of values. Queries stay in shared memory; scores, weights and sums in registers. While the tensor
// cores multiply a tile's weights with its values, the ordinary ones are at the softmax of the next
// tile's scores, which were asked for before (as FlashAttention-3 does: Shah et al., 2024,
// arXiv:2407.08608).
//
// Tiles begin at multiples of 128 positions, and what a query does not see adds exact zeros: its
// result does not depend on the chunk it came in. With kSegments it does not depend on the kernel
// either (attention_segment.cuh): what is summed up of the segments before stands in shared memory.
#pragma once

#include "cuda/attention_segment.cuh"
#include "cuda/query_tile.cuh"
#include "cuda/tensor_map.h"
#include "cuda/warpgroup_mma.cuh"

namespace penstock::cuda {

inline constexpr int kFlashQueries = 128;
inline constexpr int kFlashKeys = kTileKeys;
inline constexpr int kFlashConsumers = 256;  // threads
inline constexpr int kFlashThreads = kFlashConsumers + 128;
inline constexpr int kFlashStages = 2;

template <int D>
struct FlashShared {
  using S = SwizzledTile<D>;
  static constexpr int kSlabBytes = 128 * S::kRowBytes;

  struct alignas(1024) Tile {
    uint8_t slabs[S::kSlabs][kSlabBytes];
  };
  Tile queries;
  Tile keys[kFlashStages];
  Tile values[kFlashStages];
  uint64_t full_keys[kFlashStages];
  uint64_t empty_keys[kFlashStages];
  uint64_t full_values[kFlashStages];
  uint64_t empty_values[kFlashStages];
  float never_written;

  static constexpr size_t kBytes =
      1024 + 5 * sizeof(Tile) + (4 * kFlashStages + 1) * sizeof(uint64_t);
  // Sums of the segments before, a thread's in a column: behind the rest, with kSegments.
  static constexpr size_t kMergedBytes = D / 2 * kFlashConsumers * sizeof(float);
  __device__ __forceinline__ float* Merged() {
    return reinterpret_cast<float*>(reinterpret_cast<uint8_t*>(this) + kBytes - 1024);
  }
};

struct FlashPlace {
  int slot = 0;
  unsigned parity = 0;

  __device__ __forceinline__ void Next() {
    slot ^= 1;
    if (slot == 0) parity ^= 1;
  }
};
static_assert(kFlashStages == 2);

// One warp.
template <typename T, int D>
__device__ void FillFlashRings(const PagedAttention<T>& paged, const QueryTile& tile, int kv_head,
                               const CUtensorMap& map, FlashShared<D>& shared) {
  using S = SwizzledTile<D>;
  const int lane = threadIdx.x % 32;
  const int first_page = tile.first_seen / kFlashKeys * 2;
  const int end_page = (tile.end_seen + kPage - 1) / kPage;
  const int first_needed = tile.first_seen / kPage;
  FlashPlace place;
  const auto load = [&](typename FlashShared<D>::Tile& to, uint64_t* full, uint64_t* empty,
                        int page, const int(&blocks)[2], int head) {
    Wait(empty, place.parity ^ 1);
    if (ElectOne()) {
      const bool needed[2] = {page >= first_needed, page + 1 < end_page};
      ArriveExpecting(full, (needed[0] + needed[1]) * kPage * D * 2);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (!needed[half]) continue;
        const int row = (blocks[half] * 2 * paged.num_kv_heads + head) * kPage;
#pragma unroll
        for (int slab = 0; slab < S::kSlabs; ++slab) {
          TensorLoad(to.slabs[slab] + half * kPage * S::kRowBytes, &map, slab * S::kColumns, row,
                     full);
        }
      }
    }
  };
  for (int base = first_page; base < end_page; base += 32) {
    const int page = base + lane;
    const int block = page >= first_needed && page < end_page ? paged.Block(tile.row, page) : 0;
    for (int i = 0; i < min(end_page - base, 32); i += 2) {
      const int blocks[2] = {__shfl_sync(~0u, block, i), __shfl_sync(~0u, block, i + 1)};
      const int slot = place.slot;
      load(shared.keys[slot], &shared.full_keys[slot], &shared.empty_keys[slot], base + i, blocks,
           kv_head);
      load(shared.values[slot], &shared.full_values[slot], &shared.empty_values[slot], base + i,
           blocks, paged.num_kv_heads + kv_head);
      place.Next();
    }
  }
}

// One warpgroup: 64 queries.
template <typename T, int D, bool kSegments>
struct FlashTile {
  using S = SwizzledTile<D>;
  static constexpr int kSlabBytes = FlashShared<D>::kSlabBytes;
  static constexpr int kRows = 64;

  const PagedAttention<T>& paged;
  const QueryTile& tile;
  FlashShared<D>& shared;
  int group = threadIdx.x / 128;
  int thread = threadIdx.x % 128;
  int lane = threadIdx.x % 32;
  int row = thread / 32 * 16 + lane / 4;  // and row + 8, of the warpgroup's
  int position;                           // of the warpgroup's first query

  float scores[64];
  float sums[D / 2];
  uint32_t weights[kFlashKeys / 16][4];
  float top[2];     // of the segment, and so on
  float total[2];   // this thread's part
  float factor[2];  // that brings older sums to the new top
  // Of the segments before.
  bool has_merged = false;
  float merged_top[2] = {-INFINITY, -INFINITY};
  float merged_total[2] = {};

  __device__ FlashTile(const PagedAttention<T>& p, const QueryTile& t, FlashShared<D>& s)
      : paged(p), tile(t), shared(s) {
    position = tile.position + group * kRows;
#pragma unroll
    for (int i = 0; i < D / 2; ++i) sums[i] = 0;
    top[0] = top[1] = -INFINITY;
    total[0] = total[1] = 0;
  }

  __device__ void LoadQueries(int head) {
    constexpr int kUnits = D / 8;
    constexpr int kSlabUnits = S::kColumns / 8;
    for (int i = thread; i < kRows * kUnits; i += 128) {
      const int at = group * kRows + i / kUnits;
      const int unit = i % kUnits;
      uint4 value = {};
      if (at < tile.count) {
        value = reinterpret_cast<const uint4*>(paged.Query(tile.token + at, head))[unit];
      }
      *reinterpret_cast<uint4*>(shared.queries.slabs[unit / kSlabUnits] +
                                S::UnitOffset(at, unit % kSlabUnits)) = value;
    }
    FenceSharedWrites();
    asm volatile("bar.sync %0, 128;" ::"r"(2 + group) : "memory");
  }

  // Asks for scores = queries keys^T.
  __device__ __forceinline__ void BeginScores(const FlashPlace& place) {
    Wait(&shared.full_keys[place.slot], place.parity);
    const uint32_t a = SharedAddress(shared.queries.slabs[0]) + group * kRows * S::kRowBytes;
    const uint32_t b = SharedAddress(shared.keys[place.slot].slabs[0]);
    HoldRegisters(scores);
    FenceProducts();
#pragma unroll
    for (int k = 0; k < D; k += 16) {
      const unsigned at = k / S::kColumns * kSlabBytes + k % S::kColumns * 2;
      MultiplyRows<T>(scores, S::AlongRows(a + at), S::AlongRows(b + at), k > 0);
    }
    CommitProducts();
  }

  // Asks for sums += weights values.
  __device__ __forceinline__ void BeginSums(const FlashPlace& place) {
    Wait(&shared.full_values[place.slot], place.parity);
    const uint32_t b = SharedAddress(shared.values[place.slot].slabs[0]);
    HoldRegisters(sums);
    FenceProducts();
#pragma unroll
    for (int k = 0; k < kFlashKeys / 16; ++k) {
      MultiplyAcross<T, D>(sums, weights[k], S::AcrossRows(b + k * 16 * S::kRowBytes, kSlabBytes));
    }
    CommitProducts();
  }

  // Zeros in the values that no query of the tile at `first` sees: nothing times what may be there
  // would not be nothing. Both warpgroups.
  __device__ __forceinline__ void ClearUnseen(const FlashPlace& place, int first) {
    if (first >= tile.first_seen && first + kFlashKeys <= tile.end_seen) return;
    Wait(&shared.full_values[place.slot], place.parity);
    constexpr int kUnits = S::kRowBytes / 16;
    for (int i = threadIdx.x; i < kFlashKeys * kUnits; i += kFlashConsumers) {
      const int at = first + i / kUnits;
      if (at >= tile.first_seen && at < tile.end_seen) continue;
#pragma unroll
      for (int slab = 0; slab < S::kSlabs; ++slab) {
        *reinterpret_cast<uint4*>(shared.values[place.slot].slabs[slab] + i * 16) = uint4{};
      }
    }
    FenceSharedWrites();
    asm volatile("bar.sync 1, %0;" ::"n"(kFlashConsumers) : "memory");
  }

  __device__ __forceinline__ void Release(uint64_t* empty) {
    if (lane == 0) Arrive(empty);
  }

  // Whether every query of the warpgroup sees the whole tile.
  __device__ __forceinline__ bool SeesAll(int first) const {
    return first + kFlashKeys - 1 <= position && first >= paged.FirstSeen(position + kRows - 1);
  }

  // scores become the weights, still float32; factor, top and total follow.
  template <bool kMask>
  __device__ __forceinline__ void Softmax(int first) {
    if constexpr (kMask) {
      const int place = first + lane % 4 * 2 - position - row;  // relative to the upper query
      const int lowest[2] = {paged.FirstSeen(position + row) - position - row,
                             paged.FirstSeen(position + row + 8) - position - row};
#pragma unroll
      for (int i = 0; i < 64; ++i) {
        const int half = i / 2 % 2;
        const int key = place + i / 4 * 8 + i % 2;
        const bool unseen = static_cast<int>(key > half * 8) | static_cast<int>(key < lowest[half]);
        scores[i] = unseen ? -INFINITY : scores[i];
      }
    }
    cuda::Softmax(scores, paged.scale, top, total, factor);
    ComputeBefore(total[0] + total[1], &shared.never_written);
  }

  // Adds a segment's sums, of that top and this thread's part of that total, to those before.
  __device__ __forceinline__ void EndSegment(const float (&tops)[2], const float (&totals)[2]) {
    float* merged = shared.Merged() + threadIdx.x;
    const SegmentMerge merges[2] = {{merged_top[0], tops[0]}, {merged_top[1], tops[1]}};
#pragma unroll
    for (int i = 0; i < D / 2; ++i) {
      const float before = has_merged ? merged[i * kFlashConsumers] : 0.0f;
      merged[i * kFlashConsumers] = merges[i / 2 % 2].Merge(before, sums[i]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      merged_top[half] = merges[half].top;
      merged_total[half] = merges[half].Merge(merged_total[half], RowTotal(totals[half]));
    }
    has_merged = true;
  }

  // The warpgroups take turns: while one is at its softmax the tensor cores have the other's
  // products.
  __device__ __forceinline__ void AwaitTurn() {
    asm volatile("bar.sync %0, %1;" ::"r"(4 + group), "n"(kFlashConsumers) : "memory");
  }
  __device__ __forceinline__ void PassTurn() {
    asm volatile("bar.arrive %0, %1;" ::"r"(5 - group), "n"(kFlashConsumers) : "memory");
  }

  // The values of the tile at `first`, and the scores of the next. Between the products and the end
  // of the softmax nothing branches: the compiler would wait for all products before it did.
  template <bool kEdge>
  __device__ __forceinline__ void Step(FlashPlace& place, int first) {
    const FlashPlace before = place;
    if (kEdge) ClearUnseen(place, first);
    place.Next();
    AwaitTurn();
    BeginScores(place);
    BeginSums(before);
    PassTurn();
    WaitForProducts<1>();
    HoldRegisters(scores);
    Release(&shared.empty_keys[place.slot]);
    const bool ends = kSegments && (first + kFlashKeys) % kSegmentKeys == 0;
    const float tops[2] = {top[0], top[1]};
    const float totals[2] = {total[0], total[1]};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      top[half] = ends ? -INFINITY : top[half];
      total[half] = ends ? 0.0f : total[half];
    }
    Softmax<kEdge>(first + kFlashKeys);
    WaitForProducts<0>();
    HoldRegisters(sums);
    Release(&shared.empty_values[before.slot]);
    if (ends) EndSegment(tops, totals);
#pragma unroll
    for (int i = 0; i < D / 2; ++i) sums[i] = ends ? 0.0f : sums[i] * factor[i / 2 % 2];
    TakeWeights<T>(scores, weights);
  }

  __device__ __forceinline__ void Run() {
    int first = tile.first_seen / kFlashKeys * kFlashKeys;
    FlashPlace place;
    if (group == 1) PassTurn();
    AwaitTurn();
    BeginScores(place);
    PassTurn();
    WaitForProducts<0>();
    HoldRegisters(scores);
    Release(&shared.empty_keys[place.slot]);
    Softmax<true>(first);
    TakeWeights<T>(scores, weights);
    for (; first + kFlashKeys < tile.end_seen; first += kFlashKeys) {
      if (first >= tile.first_seen && SeesAll(first + kFlashKeys)) {
        Step<false>(place, first);
      } else {
        Step<true>(place, first);
      }
    }
    if (group == 0) AwaitTurn();  // takes the last turn, which nobody else does
    ClearUnseen(place, first);
    BeginSums(place);
    WaitForProducts<0>();
    HoldRegisters(sums);
  }

  __device__ void Store(int head) {
    if (kSegments && has_merged) {
      EndSegment(top, total);
#pragma unroll
      for (int i = 0; i < D / 2; ++i) {
        sums[i] = shared.Merged()[i * kFlashConsumers + threadIdx.x];
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float all = kSegments && has_merged ? merged_total[half] : RowTotal(total[half]);
      const int at = group * kRows + row + half * 8;
      if (at >= tile.count) continue;
      const float by = Normaliser(all);
      T* out = paged.Out(tile.token + at, head) + lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < D / 2; i += 4) {
        *reinterpret_cast<uint32_t*>(out + i * 2) =
            PackTwo<T>(sums[i + half * 2] * by, sums[i + half * 2 + 1] * by);
      }
    }
  }
};

template <typename T, int D, bool kSegments>
__global__ void __launch_bounds__(kFlashThreads, 1)
    FlashTileKernel(const __grid_constant__ PagedAttention<T> paged,
                    const __grid_constant__ CUtensorMap map) {
  extern __shared__ uint8_t bytes[];
  // Swizzling goes by the address: tiles begin at multiples of 1024.
  auto& shared = *reinterpret_cast<FlashShared<D>*>(bytes + (-SharedAddress(bytes) & 1023));
  LetNextBegin();
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < kFlashStages; ++slot) {
      MakeBarrier(&shared.full_keys[slot], 1);
      MakeBarrier(&shared.full_values[slot], 1);
      MakeBarrier(&shared.empty_keys[slot], kFlashConsumers / 32);
      MakeBarrier(&shared.empty_values[slot], kFlashConsumers / 32);
    }
    FenceBarriers();
  }
  WaitForInputs();
  const QueryTile tile = FindQueryTile(paged, kFlashQueries, static_cast<int>(blockIdx.y));
  const int head = BlockHead();
  if (tile.row < 0 || head >= paged.num_heads) return;
  __syncthreads();
  if (threadIdx.x >= kFlashConsumers) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x / 32 == kFlashConsumers / 32) {
      FillFlashRings<T, D>(paged, tile, head / (paged.num_heads / paged.num_kv_heads), map, shared);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    FlashTile<T, D, kSegments> work(paged, tile, shared);
    work.LoadQueries(head);
    work.Run();
    work.Store(head);
  }
}

}  // namespace penstock::cuda
