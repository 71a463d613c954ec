// The works of decoder_attention's kernel for batches (batch_decode.cuh): the tiles (128 positions)
// of all sequences and KV heads lie behind each other in one line, sequence by sequence, head by
// head; an item is a sequence's KV head. Each block has a stretch of the line, and each of its
// warps a stretch of that.
//
// Where whole items share out evenly, as those of equal lengths do, nothing is cut. Else blocks
// have equal stretches, whatever the lengths, and a warp's border is moved to an item's where one
// is near: what a multiprocessor reads decides, not what a warp does. Of an item that is cut the
// parts are left in the workspace. The last warp of a block to leave one adds up the block's, the
// last block to leave one those of the blocks, each in the line's order: the same bits in every
// run, and nobody waits. A warp's cut works come first, so that most parts are added up while
// memory is busy with whole items.
#pragma once

#include "cuda/decode_share.cuh"
#include "cuda/warp_tile.cuh"

namespace penstock::cuda {

inline constexpr int kBatchParts = 2 * kAloneWarps + 2;  // a block's: its warps', its own
inline constexpr int kMaxBatchBlocks = kAloneWarps * 32 - 1;
// Tiles that a block's stretch may be longer for the sake of whole items: what it takes to add up
// parts behind the last tile. And the part of a warp's stretch that its border may move by.
inline constexpr int kWholeTiles = 4;
inline constexpr int kWarpSnap = 4;

template <typename T>
struct BatchProblem {
  PagedAttention<T> paged;
  int group;           // query heads a KV head, at most kColumnHeads
  unsigned* counters;  // [rows * num_kv_heads] arrivals, zero between launches
  float* parts;        // [blocks][kBatchParts][PartFloats(group, head_dim)]

  __device__ __forceinline__ float* Part(int block, int part) const {
    return parts + (int64_t{block} * kBatchParts + part) * PartFloats(group, paged.head_dim);
  }
};

struct BatchWork : WarpWork {
  int item;  // in the line's order
  int item_begin;
  int item_end;
  int begin;  // of the work's tiles in the line
  int end;
};

template <int D>
struct BatchShared {
  WarpRings<D> rings;
  WarpQueue<BatchWork> queues[kAloneWarps];
  int context[kMaxDecodeRows];
  int start[kMaxDecodeRows + 1];          // tiles that the rows before see, of one item
  int block_border[kMaxBatchBlocks + 1];  // where the blocks' stretches begin, and the last ends
  int border[kAloneWarps + 1];            // the same of this block's warps
  int longest;                            // stretch of a block, were all of whole items
  unsigned come[kAloneWarps];  // warps that left a part of the item cut behind this warp's
};

// Which tiles there are, and which are this block's and this warp's.
template <typename T, int D>
struct BatchLine {
  using Work = BatchWork;
  using Cursor = int;  // where the next work begins; -1: the one cut at its end comes

  const BatchProblem<T>& problem;
  BatchShared<D>& shared;

  // REQUIRES: all threads of the block. Ends with them in step.
  __device__ BatchLine(const BatchProblem<T>& p, BatchShared<D>& s) : problem(p), shared(s) {
    const PagedAttention<T>& paged = problem.paged;
    const int blocks = static_cast<int>(gridDim.x);
    const int thread = static_cast<int>(threadIdx.x);
    for (int row = thread; row < paged.rows; row += blockDim.x) {
      const int context = paged.ContextOrNone(row);
      const int end = (context + kTileKeys - 1) / kTileKeys;
      shared.context[row] = context;
      shared.start[row + 1] = context == 0 ? 0 : end - paged.FirstSeen(context - 1) / kTileKeys;
    }
    if (thread < kAloneWarps) shared.come[thread] = 0;
    if (thread == 0) shared.longest = 0;
    AddUpRows(shared.start, paged.rows);
    const int total = shared.start[paged.rows] * paged.num_kv_heads;
    const int each = total / blocks;
    const int more = total % blocks;
    const int exact = min(thread, blocks) * each + min(thread, more);
    if (thread <= blocks) shared.block_border[thread] = NearestItem(exact, total);
    __syncthreads();
    if (thread < blocks) {
      atomicMax(&shared.longest, shared.block_border[thread + 1] - shared.block_border[thread]);
    }
    __syncthreads();
    const bool is_whole = shared.longest <= each + min(kWholeTiles, each / 16 + 1);
    if (!is_whole && thread <= blocks) shared.block_border[thread] = exact;
    __syncthreads();
    if (thread <= kAloneWarps) {
      const int begin = shared.block_border[blockIdx.x];
      const int count = shared.block_border[blockIdx.x + 1] - begin;
      const int of_warp = count / kAloneWarps;
      const int at = begin + thread * of_warp + min(thread, count % kAloneWarps);
      const bool is_inner = thread > 0 && at < begin + count;
      const int nearest = is_inner ? NearestItem(at, total) : at;
      const bool is_near = is_whole || abs(nearest - at) * kWarpSnap <= of_warp;
      shared.border[thread] = is_near ? nearest : at;
    }
    __syncthreads();
  }

  __device__ __forceinline__ int BlockOf(int position) const {
    int block = 0;
    for (int above = static_cast<int>(gridDim.x); above - block > 1;) {
      const int middle = (block + above) / 2;
      (shared.block_border[middle] <= position ? block : above) = middle;
    }
    return block;
  }
  __device__ __forceinline__ int WarpOf(int position) const {
    int warp = 0;
#pragma unroll
    for (int w = 1; w < kAloneWarps; ++w) warp += shared.border[w] <= position ? 1 : 0;
    return warp;
  }

  __device__ __forceinline__ Cursor First() const { return -1; }
  __device__ bool Take(Cursor& next, BatchWork& work) const {
    const int begin = shared.border[threadIdx.x / 32];
    const int end = shared.border[threadIdx.x / 32 + 1];
    if (begin == end) return false;
    bool is_tail = false;
    if (next < 0) {
      next = begin;
      Locate(end - 1, work);
      is_tail = work.item_end > end;
    }
    if (is_tail) {
      Cut(max(begin, work.item_begin), end, work);
      return true;
    }
    if (next >= end) return false;
    Locate(next, work);
    if (work.item_end > end) return false;  // it came first
    Cut(next, work.item_end, work);
    next = work.item_end;
    return true;
  }

  // The item that the tile at that place of the line is of.
  __device__ __forceinline__ void Locate(int at, BatchWork& work) const {
    const int heads = problem.paged.num_kv_heads;
    int row = 0;
    for (int above = problem.paged.rows; above - row > 1;) {
      const int middle = (row + above) / 2;
      (shared.start[middle] * heads <= at ? row : above) = middle;
    }
    const int tiles = shared.start[row + 1] - shared.start[row];
    const int begin = shared.start[row] * heads;
    work.row = row;
    work.kv_head = (at - begin) / tiles;
    work.item = row * heads + work.kv_head;
    work.item_begin = begin + work.kv_head * tiles;
    work.item_end = work.item_begin + tiles;
  }
  __device__ __forceinline__ int NearestItem(int at, int total) const {
    if (at >= total) return total;
    BatchWork work;
    Locate(at, work);
    return at - work.item_begin <= work.item_end - at ? work.item_begin : work.item_end;
  }
  // The work that is those tiles of its item.
  __device__ __forceinline__ void Cut(int begin, int end, BatchWork& work) const {
    const PagedAttention<T>& paged = problem.paged;
    work.begin = begin;
    work.end = end;
    work.first_head = work.kv_head * problem.group;
    work.num_heads = problem.group;
    work.context = shared.context[work.row];
    work.first_seen = paged.FirstSeen(work.context - 1);
    const int page = (work.first_seen / kTileKeys + begin - work.item_begin) * kTilePages;
    work.first_page = max(work.first_seen / kPage, page);
    work.end_page = min((work.context + kPage - 1) / kPage, page + (end - begin) * kTilePages);
  }
};

}  // namespace penstock::cuda
