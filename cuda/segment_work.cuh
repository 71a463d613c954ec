// The work of decoder_attention's kernel in the fixed order of sums (segment_decode.cuh): what a
// warp is given of a batch, and how its ring in shared memory is filled.
#pragma once

#include "cuda/attention_segment.cuh"
#include "cuda/decode_share.cuh"
#include "cuda/tensor_map.h"
#include "cuda/warpgroup_mma.cuh"

namespace penstock::cuda {

inline constexpr int kSegmentWarps = 8;
inline constexpr int kSegmentHeads = 8;  // query heads an item
inline constexpr int kSegmentPages = kSegmentKeys / kPage;
inline constexpr int kTilePages = kTileKeys / kPage;

// Of a slot of the workspace: the sums [item_heads, head_dim], then the tops and the totals.
__host__ __device__ constexpr int SegmentSlotFloats(int item_heads, int head_dim) {
  return (item_heads * (head_dim + 2) + 3) / 4 * 4;  // 16-byte loads
}

template <typename T>
struct SegmentProblem {
  PagedAttention<T> paged;
  int group;           // query heads a KV head
  int chunks;          // items a KV head: of up to kSegmentHeads query heads each
  int item_heads;      // the most that an item has
  int slots;           // that `partials` has
  unsigned* counters;  // [rows * num_kv_heads * chunks] arrivals, zero between launches
  float* partials;     // [slots][SegmentSlotFloats()]

  __device__ __forceinline__ float* Slot(int index) const {
    return partials + int64_t{index} * SegmentSlotFloats(item_heads, paged.head_dim);
  }
};

template <int D>
struct SegmentShared {
  using S = SwizzledTile<D>;
  static constexpr int kSlabBytes = kPage * S::kRowBytes;
  static constexpr int kStages = 24576 / kSlabBytes;

  struct alignas(1024) Slab {
    uint8_t bytes[kSlabBytes];
  };
  Slab ring[kSegmentWarps][kStages];
  uint64_t full[kSegmentWarps][kStages];
  int start[kMaxDecodeRows + 1];  // segments of the rows before, of one item
  int longest;                    // the most segments of a row

  static constexpr size_t kBytes = 1024 + sizeof(Slab) * kSegmentWarps * kStages +
                                   sizeof(uint64_t) * kSegmentWarps * kStages +
                                   sizeof(int) * (kMaxDecodeRows + 2);
};

// What a warp is at.
struct SegmentWork {
  int row;
  int head;  // of the row's items
  int kv_head;
  int first_head;  // its query heads, [first_head, first_head + num_heads)
  int num_heads;
  int first_seen;
  int context;
  int segments;    // of the item
  int first_slot;  // of its first segment
  int first_page;  // pages of this work, absolute
  int end_page;
};

// Which work there is, and which is this warp's.
template <typename T>
struct SegmentLine {
  const SegmentProblem<T>& problem;
  const int* start;
  int items_of_row;
  bool by_heads;  // a work is an item, not a segment of one
  int count;

  // By heads where that keeps device memory busy to the end: two warps of a multiprocessor do, and
  // the longest item is no more than a share of one of these. Else by segments, if there is room.
  __device__ SegmentLine(const SegmentProblem<T>& p, const int* s, int longest)
      : problem(p), start(s) {
    items_of_row = problem.paged.num_kv_heads * problem.chunks;
    const int segments = start[problem.paged.rows] * items_of_row;
    const int64_t busy = static_cast<int64_t>(gridDim.x) * 2 * longest;
    by_heads = segments > problem.slots || segments * int64_t{10} >= busy * 9;
    count = by_heads ? problem.paged.rows * items_of_row : segments;
  }

  __device__ __forceinline__ static int Warp() {
    return static_cast<int>(threadIdx.x / 32 * gridDim.x + blockIdx.x);
  }
  __device__ __forceinline__ static int NumWarps() {
    return static_cast<int>(gridDim.x) * kSegmentWarps;
  }

  __device__ SegmentWork At(int index) const {
    const PagedAttention<T>& paged = problem.paged;
    int row = by_heads ? index / items_of_row : 0;
    for (int above = by_heads ? row + 1 : paged.rows; above - row > 1;) {
      const int middle = (row + above) / 2;
      (start[middle] * items_of_row <= index ? row : above) = middle;
    }
    SegmentWork work;
    work.row = row;
    work.segments = start[row + 1] - start[row];
    const int inside = index - start[row] * items_of_row;
    work.head = by_heads ? index % items_of_row : inside / work.segments;
    work.first_slot = start[row] * items_of_row + work.head * work.segments;
    work.kv_head = work.head / problem.chunks;
    const int chunk = work.head % problem.chunks;
    work.first_head = work.kv_head * problem.group + chunk * kSegmentHeads;
    work.num_heads = min(problem.group - chunk * kSegmentHeads, kSegmentHeads);
    work.context = paged.ContextOrNone(row);
    work.first_seen = work.context == 0 ? 0 : paged.FirstSeen(work.context - 1);
    work.first_page = work.first_seen / kPage;
    work.end_page = (work.context + kPage - 1) / kPage;
    if (!by_heads) {
      const int page = (work.first_seen / kSegmentKeys + inside % work.segments) * kSegmentPages;
      work.first_page = max(work.first_page, page);
      work.end_page = min(work.end_page, page + kSegmentPages);
    }
    return work;
  }
};

// Counts the segments of the rows, and those of the longest. REQUIRES: all threads of the block.
// Ends with them in step.
template <typename T>
__device__ void CountSegments(const PagedAttention<T>& paged, int* start, int* longest) {
  if (threadIdx.x == 0) *longest = 0;
  __syncthreads();
  for (int row = threadIdx.x; row < paged.rows; row += blockDim.x) {
    const int context = paged.ContextOrNone(row);
    const int first = context == 0 ? 0 : paged.FirstSeen(context - 1) / kSegmentKeys;
    start[row + 1] = (context + kSegmentKeys - 1) / kSegmentKeys - first;
    atomicMax(longest, start[row + 1]);
  }
  AddUpRows(start, paged.rows);
}

// Fills a warp's ring, one slab at a time, in the order in which they are used: of each tile the
// keys of its pages, slab by slab, then the values. All lanes of a warp call it together.
template <typename T, int D>
struct SegmentLoader {
  using S = SwizzledTile<D>;
  using Shared = SegmentShared<D>;

  const SegmentLine<T>& line;
  Shared& shared;
  const CUtensorMap& map;
  int warp = threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  int slot = 0;

  int index;  // of the work that is being loaded
  SegmentWork work;
  int blocks;  // lane i has the KV block of page `base` + i
  int base;    // a tile's first

  int tile_page;  // of the tile that is being loaded: its first page
  int page;
  int slab = 0;
  bool values = false;

  __device__ SegmentLoader(const SegmentLine<T>& l, Shared& s, const CUtensorMap& m)
      : line(l), shared(s), map(m), index(SegmentLine<T>::Warp()) {
    Begin();
    for (int i = 0; i < Shared::kStages; ++i) Next();
  }

  __device__ void Begin() {
    for (; index < line.count; index += SegmentLine<T>::NumWarps()) {
      work = line.At(index);
      if (work.end_page > 0) break;  // else a row of padding, where work is dealt out by heads
    }
    if (index >= line.count) return;
    const PagedAttention<T>& paged = line.problem.paged;
    LoadBlocks(work.first_page);
    if (work.end_page * kPage >= work.context) {
      // Each warp that reads the new token's page writes its key and value first, the same bytes.
      constexpr int kPacks = D * 2 / 16;
      static_assert(2 * kPacks <= 32);
      const int block = paged.Block(work.row, work.end_page - 1);
      if (lane < 2 * kPacks) {
        const int head = lane < kPacks ? work.kv_head : paged.num_kv_heads + work.kv_head;
        const T* from = paged.NewKey(work.row, head);
        T* to = paged.Keys(block, head) + (work.context - 1) % kPage * D;
        reinterpret_cast<uint4*>(to)[lane % kPacks] =
            reinterpret_cast<const uint4*>(from)[lane % kPacks];
      }
      FenceGlobalWritesBeforeBulkReads();
      __syncwarp();
    }
    BeginTile(work.first_page / kTilePages * kTilePages);
  }
  __device__ __forceinline__ void LoadBlocks(int first) {
    base = first / kTilePages * kTilePages;  // a tile's pages are never told apart
    const int mine = base + lane;
    blocks = mine < work.end_page ? line.problem.paged.Block(work.row, mine) : 0;
  }
  __device__ __forceinline__ void BeginTile(int first) {
    tile_page = first;
    page = max(first, work.first_page);
    slab = 0;
    values = false;
  }
  // Asks for the next slab, if there is one, into the slot that comes next.
  __device__ void Next() {
    if (index >= line.count) return;
    const PagedAttention<T>& paged = line.problem.paged;
    if (page - base >= 32) LoadBlocks(page);
    const int block = __shfl_sync(~0u, blocks, page - base);
    if (ElectOne()) {
      const int head = values ? paged.num_kv_heads + work.kv_head : work.kv_head;
      ArriveExpecting(&shared.full[warp][slot], Shared::kSlabBytes);
      TensorLoad(shared.ring[warp][slot].bytes, &map, slab * S::kColumns,
                 (block * 2 * paged.num_kv_heads + head) * kPage, &shared.full[warp][slot]);
    }
    if (++slot == Shared::kStages) slot = 0;
    if (++slab < S::kSlabs) return;
    slab = 0;
    if (++page < min(tile_page + kTilePages, work.end_page)) return;
    if (!values) {
      values = true;
      page = max(tile_page, work.first_page);
      return;
    }
    if (tile_page + kTilePages < work.end_page) return BeginTile(tile_page + kTilePages);
    index += SegmentLine<T>::NumWarps();
    Begin();
  }
};

}  // namespace penstock::cuda
