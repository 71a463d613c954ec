// The works of decoder_attention's kernel in the fixed order of sums (segment_decode.cuh): what a
// warp is given of a batch.
#pragma once

#include "cuda/decode_share.cuh"
#include "cuda/warp_tile.cuh"

namespace penstock::cuda {

inline constexpr int kSegmentPages = kSegmentKeys / kPage;

template <typename T>
struct SegmentProblem {
  PagedAttention<T> paged;
  int group;           // query heads a KV head
  int chunks;          // items a KV head: of up to kColumnHeads query heads each
  int item_heads;      // the most that an item has
  int slots;           // that `partials` has
  unsigned* counters;  // [rows * num_kv_heads * chunks] arrivals, zero between launches
  float* partials;     // [slots][PartFloats(item_heads, head_dim)]

  __device__ __forceinline__ float* Slot(int index) const {
    return partials + int64_t{index} * PartFloats(item_heads, paged.head_dim);
  }
};

struct SegmentWork : WarpWork {
  int index;
  int head;        // of the row's items
  int segments;    // of the item
  int first_slot;  // of its first segment
};

template <int D>
struct SegmentShared {
  WarpRings<D> rings;
  WarpQueue<SegmentWork> queues[kAloneWarps];
  int start[kMaxDecodeRows + 1];  // segments of the rows before, of one item
  int longest;                    // the most segments of a row
};

// Which work there is, and which is this warp's.
template <typename T>
struct SegmentLine {
  using Work = SegmentWork;
  using Cursor = int;  // the next work's index

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
    return static_cast<int>(gridDim.x) * kAloneWarps;
  }

  __device__ __forceinline__ Cursor First() const { return Warp(); }
  __device__ __forceinline__ bool Take(Cursor& next, SegmentWork& work) const {
    while (next < count) {
      work = At(next);
      next += NumWarps();
      if (work.end_page > 0) return true;  // else a row of padding, where it goes by heads
    }
    return false;
  }

  __device__ SegmentWork At(int index) const {
    const PagedAttention<T>& paged = problem.paged;
    int row = by_heads ? index / items_of_row : 0;
    for (int above = by_heads ? row + 1 : paged.rows; above - row > 1;) {
      const int middle = (row + above) / 2;
      (start[middle] * items_of_row <= index ? row : above) = middle;
    }
    SegmentWork work;
    work.index = index;
    work.row = row;
    work.segments = start[row + 1] - start[row];
    const int inside = index - start[row] * items_of_row;
    work.head = by_heads ? index % items_of_row : inside / work.segments;
    work.first_slot = start[row] * items_of_row + work.head * work.segments;
    work.kv_head = work.head / problem.chunks;
    const int chunk = work.head % problem.chunks;
    work.first_head = work.kv_head * problem.group + chunk * kColumnHeads;
    work.num_heads = min(problem.group - chunk * kColumnHeads, kColumnHeads);
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

}  // namespace penstock::cuda
