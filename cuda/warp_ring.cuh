// What decoder_attention's kernels share in which a warp works alone (segment_decode.cuh,
// batch_decode.cuh): its works, stretches of a sequence's KV head, and the ring in shared memory
// through which their keys and values pass.
//
// A kernel's Line deals out the works: Line::Work, which begins with a WarpWork, Line::Cursor,
// First(), and Take(cursor, work), which gives this warp's next work or says that there is none.
#pragma once

#include "cuda/attention_segment.cuh"
#include "cuda/paged_attention.cuh"
#include "cuda/tensor_map.h"
#include "cuda/warpgroup_mma.cuh"

namespace penstock::cuda {

inline constexpr int kAloneWarps = 8;   // a multiprocessor's
inline constexpr int kColumnHeads = 8;  // query heads a work
inline constexpr int kTilePages = kTileKeys / kPage;
// Of a warp, before the kernel's inputs are there. More of them would stand before the loads of the
// kernel ahead: to be measured between other kernels.
inline constexpr int kEarlySlabs = 0;

template <int D>
struct WarpRings {
  using S = SwizzledTile<D>;
  static constexpr int kSlabBytes = kPage * S::kRowBytes;
  static constexpr int kStages = 24576 / kSlabBytes;

  struct alignas(1024) Slab {
    uint8_t bytes[kSlabBytes];
  };
  Slab ring[kAloneWarps][kStages];
  uint64_t full[kAloneWarps][kStages];

  // One thread; the block synchronises then.
  __device__ void MakeBarriers() {
    for (int i = 0; i < kAloneWarps * kStages; ++i) MakeBarrier(&full[0][0] + i, 1);
    FenceBarriers();
  }
};

// What a warp is at.
struct WarpWork {
  int row;
  int kv_head;
  int first_head;  // its query heads, [first_head, first_head + num_heads)
  int num_heads;
  int first_seen;
  int context;
  int first_page;  // pages of this work, absolute
  int end_page;
};

// Of a cache, [its rows, head dim]: boxes of a page's rows and of eight, a slab wide.
struct CacheMaps {
  CUtensorMap page;
  CUtensorMap eight;
};

// A warp's next works, in shared memory.
template <typename Work>
struct WarpQueue {
  static constexpr int kDepth = 4;

  Work works[kDepth];
  int blocks[kDepth][32];  // KV blocks of a work's first pages
};

// Takes a warp's works, some ahead of the one that is computed, and fills its ring: one slab at a
// time, in the order in which they are used: of each tile the keys of its pages, slab by slab, then
// the values. All lanes of a warp call it together.
//
// A work with a sequence's last page has the new token's key and value stored there before it is
// loaded. These are results of the kernel ahead, as nothing else is that is touched here: lengths,
// tables and older positions of the cache are the step's before its first kernel runs, and no other
// kernel writes them. So loads begin while the kernel ahead still runs.
template <typename T, int D, typename Line>
struct WarpLoader {
  using S = SwizzledTile<D>;
  using Rings = WarpRings<D>;
  using Work = typename Line::Work;
  using Queue = WarpQueue<Work>;

  const Line& line;
  const PagedAttention<T>& paged;
  Rings& rings;
  Queue& queue;
  const CacheMaps& maps;
  int warp = threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  int slot = 0;

  typename Line::Cursor cursor;
  int taken = 0;  // works that the queue has had

  // The work that is being loaded, `loading` of those taken; none if there is no such.
  int loading = 0;
  int row = 0;
  int kv_head = 0;
  int first_page = 0;
  int end_page = 0;
  int blocks;  // lane i has the KV block of page `base` + i
  int base;
  int tile_page;  // of the tile that is being loaded: its first page
  int page = 0;
  int slab = 0;
  bool values = false;

  __device__ WarpLoader(const Line& l, Rings& r, Queue& q, const CacheMaps& m)
      : line(l), paged(l.problem.paged), rings(r), queue(q), maps(m), cursor(l.First()) {}

  // Fills the ring, and ends once the kernel's inputs are there. At most `early` slabs are asked
  // for before.
  __device__ void Begin(int early) {
    bool has_inputs = false;
    const auto await_inputs = [&] {
      if (has_inputs) return;
      WaitForInputs();
      has_inputs = true;
#pragma unroll 1
      for (int i = 0; i < taken; ++i) StoreNew(queue.works[i]);
    };
    TakeWork(false);
    if (loading < taken) BeginWork();
#pragma unroll 1
    for (int i = 0; i < Rings::kStages; ++i) {
      if (i >= early || page == end_page - 1) await_inputs();
      Next();
      if (loading < taken) continue;
      TakeWork(has_inputs);
      if (loading < taken) BeginWork();
    }
    await_inputs();
    // While one work is computed at most one is loaded to its end: two are enough ahead.
    if (taken < 2) TakeWork(true);
  }

  // The work that is computed next, `index` of all; takes another one. REQUIRES: index < taken.
  __device__ __forceinline__ Work At(int index) { return queue.works[index % Queue::kDepth]; }
  __device__ __forceinline__ void TakeAnother() { TakeWork(true); }

  __device__ void TakeWork(bool has_inputs) {
    Work work;
    if (!line.Take(cursor, work)) return;
    const int at = taken % Queue::kDepth;
    const int mine = work.first_page + lane;
    const int block = mine < work.end_page ? paged.Block(work.row, mine) : 0;
    __syncwarp();
    queue.blocks[at][lane] = block;
    if (lane == 0) queue.works[at] = work;
    __syncwarp();
    ++taken;
    if (has_inputs) StoreNew(work);
  }
  // The new token's key and value, if the work has their page.
  __device__ void StoreNew(const Work& work) {
    if (work.end_page * kPage < work.context) return;
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

  __device__ __forceinline__ void BeginWork() {
    const Work& work = queue.works[loading % Queue::kDepth];
    row = work.row;
    kv_head = work.kv_head;
    first_page = work.first_page;
    end_page = work.end_page;
    base = first_page;
    blocks = queue.blocks[loading % Queue::kDepth][lane];
    BeginTile(first_page / kTilePages * kTilePages);
  }
  __device__ __forceinline__ void BeginTile(int first) {
    tile_page = first;
    page = max(first, first_page);
    slab = 0;
    values = false;
  }
  // A slab of the page that begins with that row of the cache. Of one that the query does not see
  // all of, the eights of rows with something seen. One thread.
  __device__ __forceinline__ void Load(int cache_row) {
    constexpr int kEights = kPage / 8;
    constexpr int kEightBytes = 8 * S::kRowBytes;
    int begin = 0;
    int end = kEights;
    if (page == first_page || page == end_page - 1) {
      const Work& of = queue.works[loading % Queue::kDepth];
      begin = max(of.first_seen - page * kPage, 0) / 8;
      end = min((of.context - page * kPage + 7) / 8, kEights);
    }
    const bool is_whole = end - begin == kEights;
    uint64_t* full = &rings.full[warp][slot];
    ArriveExpecting(full, (end - begin) * kEightBytes);
#pragma unroll 1
    for (int i = begin; i < end; i += is_whole ? kEights : 1) {
      TensorLoad(rings.ring[warp][slot].bytes + i * kEightBytes,
                 is_whole ? &maps.page : &maps.eight, slab * S::kColumns, cache_row + i * 8, full);
    }
  }
  // Asks for the next slab, if there is one, into the slot that comes next.
  __device__ __forceinline__ void Next() {
    if (loading >= taken) return;
    if (page - base >= 32) {
      base = page;
      blocks = page + lane < end_page ? paged.Block(row, page + lane) : 0;
    }
    const int block = __shfl_sync(~0u, blocks, page - base);
    if (ElectOne()) {
      const int head = values ? paged.num_kv_heads + kv_head : kv_head;
      Load((block * 2 * paged.num_kv_heads + head) * kPage);
    }
    if (++slot == Rings::kStages) slot = 0;
    if (++slab < S::kSlabs) return;
    slab = 0;
    if (++page < min(tile_page + kTilePages, end_page)) return;
    if (!values) {
      values = true;
      page = max(tile_page, first_page);
      return;
    }
    if (tile_page + kTilePages < end_page) return BeginTile(tile_page + kTilePages);
    BeginWork();
  }
};

}  // namespace penstock::cuda
