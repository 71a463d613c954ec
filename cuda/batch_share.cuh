// The works of decoder_attention's kernel for batches (batch_decode.cuh): the tiles (128 positions)
// of all sequences and KV heads lie behind each other in one line, sequence by sequence, head by
// head; an item is a sequence's KV head. Each block has an equal stretch of the line, whatever the
// lengths, and each of its warps a stretch of that, whose border is moved to an item's where one is
// near: what a multiprocessor reads decides, not what a warp does.
//
// Where borders cut an item its parts are left in the workspace. The last warp of a block to leave
// one adds up the block's, the last block to leave one those of the blocks, each in the line's
// order: the same bits in every run, and nobody waits. A warp's cut works come first, so that most
// parts are added up while memory is busy with whole items.
#pragma once

#include "cuda/decode_share.cuh"
#include "cuda/warp_tile.cuh"

namespace penstock::cuda {

inline constexpr int kBatchParts = 2 * kAloneWarps + 2;  // a block's: its warps', its own
inline constexpr int kWarpSnap = 4;  // a warp's border moves by up to this part of its stretch

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
  int start[kMaxDecodeRows + 1];  // tiles that the rows before see, of one item
  int border[kAloneWarps + 1];    // where the warps' stretches begin, and the block's ends
  unsigned come[kAloneWarps];     // warps that left a part of the item cut behind this warp's
};

// Which tiles there are, and which are this block's and this warp's.
template <typename T>
struct BatchLine {
  using Work = BatchWork;
  using Cursor = int;  // where the next work begins; -1: the one cut at its end comes

  const BatchProblem<T>& problem;
  const int* start;
  int* border;
  int each;  // tiles of a block, the first `more` have one more
  int more;

  // REQUIRES: all threads of the block. Ends with them in step.
  template <int D>
  __device__ BatchLine(const BatchProblem<T>& p, BatchShared<D>& shared)
      : problem(p), start(shared.start), border(shared.border) {
    const PagedAttention<T>& paged = problem.paged;
    for (int row = threadIdx.x; row < paged.rows; row += blockDim.x) {
      const int context = paged.ContextOrNone(row);
      const int end = (context + kTileKeys - 1) / kTileKeys;
      shared.start[row + 1] = context == 0 ? 0 : end - paged.FirstSeen(context - 1) / kTileKeys;
    }
    AddUpRows(shared.start, paged.rows);
    const int total = start[paged.rows] * paged.num_kv_heads;
    each = total / static_cast<int>(gridDim.x);
    more = total % static_cast<int>(gridDim.x);
    if (threadIdx.x < kAloneWarps) shared.come[threadIdx.x] = 0;
    if (threadIdx.x <= kAloneWarps) border[threadIdx.x] = Border(static_cast<int>(threadIdx.x));
    __syncthreads();
  }

  __device__ __forceinline__ int BlockBegin(int block) const {
    return block * each + min(block, more);
  }
  __device__ __forceinline__ int BlockOf(int position) const {
    const int longer = more * (each + 1);
    return position < longer ? position / (each + 1) : more + (position - longer) / each;
  }
  __device__ int Border(int warp) const {
    const int begin = BlockBegin(blockIdx.x);
    const int count = BlockBegin(blockIdx.x + 1) - begin;
    const int of_warp = count / kAloneWarps;
    const int at = begin + warp * of_warp + min(warp, count % kAloneWarps);
    if (warp == 0 || at >= begin + count) return at;
    const BatchWork work = WorkAt(at, at + 1);
    const bool up = work.item_end - at < at - work.item_begin;
    const int nearest = up ? work.item_end : work.item_begin;
    return abs(nearest - at) * kWarpSnap <= of_warp ? nearest : at;
  }
  __device__ __forceinline__ int WarpOf(int position) const {
    int warp = 0;
#pragma unroll
    for (int w = 1; w < kAloneWarps; ++w) warp += border[w] <= position ? 1 : 0;
    return warp;
  }

  __device__ __forceinline__ Cursor First() const { return -1; }
  __device__ bool Take(Cursor& next, BatchWork& work) const {
    const int begin = border[threadIdx.x / 32];
    const int end = border[threadIdx.x / 32 + 1];
    if (begin == end) return false;
    if (next < 0) {
      next = begin;
      work = WorkAt(end - 1, end);
      if (work.item_end > end) {
        work = WorkAt(max(begin, work.item_begin), end);
        return true;
      }
    }
    if (next >= end) return false;
    work = WorkAt(next, end);
    if (work.item_end > end) return false;  // it came first
    next = work.end;
    return true;
  }

  // What begins at that tile of the line, up to the item's end or `end`.
  __device__ BatchWork WorkAt(int at, int end) const {
    const PagedAttention<T>& paged = problem.paged;
    int row = 0;
    for (int above = paged.rows; above - row > 1;) {
      const int middle = (row + above) / 2;
      (start[middle] * paged.num_kv_heads <= at ? row : above) = middle;
    }
    const int tiles = start[row + 1] - start[row];
    const int inside = at - start[row] * paged.num_kv_heads;
    const int tile = inside % tiles;
    BatchWork work;
    work.row = row;
    work.kv_head = inside / tiles;
    work.item = row * paged.num_kv_heads + work.kv_head;
    work.item_begin = at - tile;
    work.item_end = work.item_begin + tiles;
    work.begin = at;
    work.end = min(end, work.item_end);
    work.first_head = work.kv_head * problem.group;
    work.num_heads = problem.group;
    work.context = paged.Context(row);
    work.first_seen = paged.FirstSeen(work.context - 1);
    const int page = (work.first_seen / kTileKeys + tile) * kTilePages;
    work.first_page = max(work.first_seen / kPage, page);
    work.end_page =
        min((work.context + kPage - 1) / kPage, page + (work.end - work.begin) * kTilePages);
    return work;
  }
};

}  // namespace penstock::cuda
