// The work of decoder_attention's kernel in which a warp works alone (segment_decode.cuh): what it
// is given of a batch, and how its ring in shared memory is filled.
//
// In the fixed order of sums a work is a segment, or where there are enough all segments of an item
// (a sequence's KV head and up to 8 of its query heads). Otherwise it is an item, or where some are
// so long that others would wait for them a part of it: all parts have the same number of tiles.
// Works are dealt out to the warps in turn, and where a warp has several and lengths differ longest
// first and each turn backwards: so the warps' sums are nearly even.
#pragma once

#include <climits>

#include "cuda/attention_segment.cuh"
#include "cuda/decode_share.cuh"
#include "cuda/new_token.cuh"
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
  const float* rope;  // rope_table of the rows, [rows, head_dim]: queries and new keys are still to
  int64_t rope_stride;  // be turned; or nullptr
  int group;            // query heads a KV head
  int chunks;           // items a KV head: of up to kSegmentHeads query heads each
  int item_heads;       // the most that an item has
  int slots;            // that `partials` has
  unsigned* counters;   // [rows * num_kv_heads * chunks] arrivals, zero between launches
  float* partials;      // [slots][SegmentSlotFloats()]
  bool read_once;       // experiment

  __device__ __forceinline__ const float* Angles(int row) const {
    return rope == nullptr ? nullptr : rope + row * rope_stride;
  }
  __device__ __forceinline__ float* Slot(int index) const {
    return partials + int64_t{index} * SegmentSlotFloats(item_heads, paged.head_dim);
  }
};

// Of a batch, in shared memory.
struct SegmentRows {
  static constexpr int kMostSorted = 512;  // rows: each is held against all others

  int context[kMaxDecodeRows];
  int tiles[kMaxDecodeRows];      // that the row sees; of the fixed order segments
  int start[kMaxDecodeRows + 1];  // works of the rows before, in their order, of one head
  uint16_t order[kMaxDecodeRows];
  int longest;  // the most tiles of a row, and the fewest
  int shortest;
  int total;  // of all rows
};

// The rings of a multiprocessor's warps. Where fewer warps have work their rings are longer.
template <int D>
struct SegmentShared {
  using S = SwizzledTile<D>;
  static constexpr int kSlabBytes = kPage * S::kRowBytes;
  static constexpr int kSlabs = 196608 / kSlabBytes;

  struct alignas(1024) Slab {
    uint8_t bytes[kSlabBytes];
  };
  Slab ring[kSlabs];
  uint64_t full[kSlabs];
  uint64_t empty[kSlabs];
  alignas(16) SegmentRows rows;

  // With room to begin at a multiple of 1024.
  __host__ __device__ static constexpr size_t Bytes() { return sizeof(SegmentShared) + 1024; }
};

// Where a warp is in its ring: slabs [begin, begin + stages) of the shared ones.
struct SegmentPlace {
  int begin;
  int stages;
  int slot;  // from `begin` on
  unsigned parity = 0;

  __device__ SegmentPlace(int warp, int slabs, int busy_warps) {
    int warps = kSegmentWarps;
    while (warps >= 2 * busy_warps) warps /= 2;
    stages = slabs / warps;
    begin = warp % warps * stages;
    slot = 0;
  }
  __device__ __forceinline__ int Slab() const { return begin + slot; }
  __device__ __forceinline__ void Next() {
    if (++slot < stages) return;
    slot = 0;
    parity ^= 1;
  }
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
template <typename T, bool kFixed>
struct SegmentLine {
  static constexpr int kUnit = kFixed ? kSegmentKeys : kTileKeys;  // of SegmentRows::tiles

  const SegmentProblem<T>& problem;
  SegmentRows& rows;
  int items_of_row;
  int part;  // tiles (segments) of a work; 0: all of an item
  int count;

  // REQUIRES: all threads of the block. Ends with them in step. Reads what was there before the
  // step.
  __device__ SegmentLine(const SegmentProblem<T>& p, SegmentRows& r) : problem(p), rows(r) {
    const PagedAttention<T>& paged = problem.paged;
    const int thread = static_cast<int>(threadIdx.x);
    const int threads = static_cast<int>(blockDim.x);
    if (thread == 0) {
      rows.longest = rows.total = 0;
      rows.shortest = INT_MAX;
    }
    __syncthreads();
    for (int base = thread / 32 * 32; base < paged.rows; base += threads) {
      const int row = base + thread % 32;
      const bool is_row = row < paged.rows;
      const int context = is_row ? paged.ContextOrNone(row) : 0;
      const int before = context == 0 ? 0 : paged.FirstSeen(context - 1) / kUnit;
      const int tiles = (context + kUnit - 1) / kUnit - before;
      rows.context[row] = context;
      rows.tiles[row] = tiles;
      rows.order[row] = static_cast<uint16_t>(row);
      const int longest = __reduce_max_sync(~0u, tiles);
      const int shortest = __reduce_min_sync(~0u, is_row ? tiles : INT_MAX);
      const int total = __reduce_add_sync(~0u, tiles);
      if (thread % 32 != 0) continue;
      atomicMax(&rows.longest, longest);
      atomicMin(&rows.shortest, shortest);
      atomicAdd(&rows.total, total);
    }
    __syncthreads();
    items_of_row = paged.num_kv_heads * problem.chunks;
    const int total = rows.total * items_of_row;
    // Whole items where that keeps device memory busy to the end: two warps of a multiprocessor do,
    // and the longest item is no more than a share of one of these.
    const int64_t busy = static_cast<int64_t>(gridDim.x) * 2 * rows.longest;
    const bool is_busy = total * int64_t{10} >= busy * 9;
    const int items = paged.rows * items_of_row;
    if constexpr (kFixed) {
      part = is_busy || total > problem.slots ? 0 : 1;
      count = part == 0 ? items : total;
    } else {
      // Two parts of the greatest length a multiprocessor, since each is one more to add up at the
      // end; three if warps have several works. At least of two tiles.
      const auto length_of = [&](int parts) {
        const int most = static_cast<int>(gridDim.x) * parts;
        return max((total + most - 1) / most, 2);
      };
      // Of an item one part at most is shorter.
      const auto works_of = [&](int length) {
        return length == 0 ? items : total / length + items;
      };
      part = is_busy ? 0 : length_of(2);
      if (works_of(part) > NumWarps() && !is_busy) part = length_of(3);
      if (part >= rows.longest || works_of(part) > problem.slots) part = 0;
      const bool differ = rows.shortest < rows.longest;
      if (differ && works_of(part) > NumWarps() && paged.rows <= SegmentRows::kMostSorted) Sort();
    }
    if (part == 0) {
      count = items;
      return;
    }
    __syncthreads();
    for (int at = thread; at < paged.rows; at += threads) {
      rows.start[at + 1] = (rows.tiles[rows.order[at]] + part - 1) / part;
    }
    AddUpRows(rows.start, paged.rows);
    count = rows.start[paged.rows] * items_of_row;
  }
  // The longest first, equal ones as they come.
  __device__ void Sort() {
    const auto* fours = reinterpret_cast<const int4*>(rows.tiles);
    for (int row = threadIdx.x; row < problem.paged.rows; row += blockDim.x) {
      const int own = rows.tiles[row];
      int longer = 0;
      for (int at = 0; at * 4 < problem.paged.rows; ++at) {
        const int4 four = fours[at];
        const int first = at * 4;
        longer += four.x + (first < row) > own;
        longer += four.y + (first + 1 < row) > own;
        longer += four.z + (first + 2 < row) > own;
        longer += four.w + (first + 3 < row) > own;
      }
      rows.order[longer] = static_cast<uint16_t>(row);
    }
    __syncthreads();
  }

  // A warp that loads has the number of the one that it loads for.
  __device__ __forceinline__ static int WarpOfBlock() {
    return static_cast<int>(threadIdx.x) / 32 % kSegmentWarps;
  }
  __device__ __forceinline__ static int Warp() {
    return WarpOfBlock() * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  }
  // Of the block, that have works.
  __device__ __forceinline__ int BusyWarps() const {
    const int blocks = static_cast<int>(gridDim.x);
    return min(max((count + blocks - 1) / blocks, 1), kSegmentWarps);
  }
  __device__ __forceinline__ static int NumWarps() {
    return static_cast<int>(gridDim.x) * kSegmentWarps;
  }
  // This warp's work of a turn: all warps have one each, from the work `base` on. It may be beyond
  // the last.
  __device__ __forceinline__ static int OfTurn(int base) {
    if (kFixed || base / NumWarps() % 2 == 0) return base + Warp();
    return base + NumWarps() - 1 - Warp();
  }

  __device__ SegmentWork At(int index) const {
    const PagedAttention<T>& paged = problem.paged;
    int at = part == 0 ? index / items_of_row : 0;
    for (int above = part == 0 ? at + 1 : paged.rows; above - at > 1;) {
      const int middle = (at + above) / 2;
      (rows.start[middle] * items_of_row <= index ? at : above) = middle;
    }
    SegmentWork work;
    work.row = rows.order[at];
    work.segments = part == 0 ? 1 : rows.start[at + 1] - rows.start[at];
    const int inside = index - (part == 0 ? at : rows.start[at]) * items_of_row;
    work.head = inside / work.segments;
    work.first_slot = index - inside % work.segments;
    work.kv_head = work.head / problem.chunks;
    const int chunk = work.head % problem.chunks;
    work.first_head = work.kv_head * problem.group + chunk * kSegmentHeads;
    work.num_heads = min(problem.group - chunk * kSegmentHeads, kSegmentHeads);
    work.context = rows.context[work.row];
    work.first_seen = work.context == 0 ? 0 : paged.FirstSeen(work.context - 1);
    work.first_page = work.first_seen / kPage;
    work.end_page = (work.context + kPage - 1) / kPage;
    if (part != 0) {
      const int unit = work.first_seen / kUnit + inside % work.segments * part;
      const int page = unit * (kUnit / kPage);
      work.first_page = max(work.first_page, page);
      work.end_page = min(work.end_page, page + part * (kUnit / kPage));
    }
    return work;
  }
};

// Of a cache, [its rows, head dim]: boxes of a page's rows and of eight, a slab wide.
struct CacheMaps {
  CUtensorMap page;
  CUtensorMap eight;

  // One thread: the first copies need not wait for them.
  __device__ __forceinline__ void Prefetch() const {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&page) : "memory");
    asm volatile("prefetch.tensormap [%0];" ::"l"(&eight) : "memory");
  }
};

// Fills the ring of a warp, one slab at a time, in the order in which they are used: of each tile
// the keys of its pages, slab by slab, then the values. One warp calls it.
//
// Before a tile with the new token its key and value are stored, by each warp that loads the tile
// the same bytes. These come from the kernel ahead, as nothing else does that is touched here:
// lengths, tables and older positions were there before the step. So the ring fills while that
// kernel runs.
template <typename T, int D, bool kFixed>
struct SegmentLoader {
  using S = SwizzledTile<D>;
  using Shared = SegmentShared<D>;
  using Line = SegmentLine<T, kFixed>;

  const Line& line;
  Shared& shared;
  const CacheMaps& maps;
  int lane = threadIdx.x % 32;
  uint64_t policy;
  SegmentPlace place;

  __device__ SegmentLoader(const Line& l, Shared& s, const CacheMaps& m)
      : line(l), shared(s), maps(m), place(Line::WarpOfBlock(), Shared::kSlabs, line.BusyWarps()) {
    policy = line.problem.read_once ? EvictFirst() : EvictNormal();
  }

  __device__ void Run() {
    bool has_inputs = false;
    for (int turn = 0; turn < line.count; turn += Line::NumWarps()) {
      const int index = Line::OfTurn(turn);
      if (index >= line.count) continue;
      const SegmentWork work = line.At(index);
      int base = work.first_page / kTilePages * kTilePages;
      int blocks = Blocks(work, base);
#pragma unroll 1
      for (int tile = base; tile < work.end_page; tile += kTilePages) {
        if (tile - base >= 32) {  // a tile's pages are never told apart
          base = tile;
          blocks = Blocks(work, base);
        }
        const int end = min(tile + kTilePages, work.end_page);
        if (end * kPage >= work.context) {
          if (!has_inputs) WaitForInputs();
          has_inputs = true;
          StoreNewToken<T, D>(line.problem.paged, work.row, work.kv_head, work.context - 1,
                              line.problem.Angles(work.row), lane);
          FenceGlobalWritesBeforeBulkReads();
          __syncwarp();
        }
        LoadTile(work, max(tile, work.first_page), end, blocks, base);
      }
    }
    // The kernel ends after the one before it, as the next one takes for granted.
    if (!has_inputs) WaitForInputs();
  }

  // Lane i has the KV block of page `first` + i.
  __device__ __forceinline__ int Blocks(const SegmentWork& work, int first) const {
    const int mine = max(first + lane, work.first_page);
    return mine < work.end_page ? line.problem.paged.Block(work.row, mine) : 0;
  }
  __device__ __forceinline__ void LoadTile(const SegmentWork& work, int begin, int end, int blocks,
                                           int base) {
    const int kv_heads = line.problem.paged.num_kv_heads;
#pragma unroll 1
    for (int head = work.kv_head; head < 2 * kv_heads; head += kv_heads) {
#pragma unroll 1
      for (int page = begin; page < end; ++page) {
        const int block = __shfl_sync(~0u, blocks, page - base);
        const int row = (block * 2 * kv_heads + head) * kPage;
#pragma unroll 1
        for (int slab = 0; slab < S::kSlabs; ++slab) {
          Wait(&shared.empty[place.Slab()], place.parity ^ 1);
          if (ElectOne()) Load(work, page, slab * S::kColumns, row);
          place.Next();
        }
      }
    }
  }
  // A slab of the page that begins with that row of the cache; of a page that is not seen whole,
  // the eights of rows with something seen. One thread.
  __device__ __forceinline__ void Load(const SegmentWork& work, int page, int column, int row) {
    constexpr int kEights = kPage / 8;
    constexpr int kEightBytes = 8 * S::kRowBytes;
    const int begin = max(work.first_seen - page * kPage, 0) / 8;
    const int end = min((work.context - page * kPage + 7) / 8, kEights);
    uint64_t* full = &shared.full[place.Slab()];
    uint8_t* to = shared.ring[place.Slab()].bytes;
    ArriveExpecting(full, (end - begin) * kEightBytes);
    if (end - begin == kEights) return TensorLoad(to, &maps.page, column, row, full, policy);
#pragma unroll 1
    for (int i = begin; i < end; ++i) {
      TensorLoad(to + i * kEightBytes, &maps.eight, column, row + i * 8, full, policy);
    }
  }
};

}  // namespace penstock::cuda
