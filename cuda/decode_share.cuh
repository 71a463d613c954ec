// How decoder_attention divides a batch of few rows among its blocks (of many: segment_work.cuh).
// All pages of all sequences and KV heads lie behind each other in one line (sequence by sequence,
// head by head), and each block has an equal stretch of it: the load is even whatever the lengths,
// a sequence is split only where stretches meet, and what a block hands on for others to finish is
// at most two partial results, so that the workspace depends on the GPU alone. The blocks are as
// many for any batch: a graph that holds the launch fits all lengths. A row of padding has no
// pages, so it moves no border.
//
// The blocks of an item (a sequence's KV head and up to 16 of its query heads) write their partial
// results, and the last to arrive adds them up in the order of the blocks: the same bits in every
// run. Nobody waits.
#pragma once

#include "cuda/kernels/launchers.h"
#include "cuda/paged_attention.cuh"

namespace penstock::cuda {

inline constexpr int kDecodeHeads = 16;     // query heads an item
inline constexpr int kDecodeBlocks = 4;     // at most, a multiprocessor
inline constexpr int kDecodeThreads = 128;  // that compute

template <typename T>
struct DecodeProblem {
  PagedAttention<T> paged;
  int group;           // query heads a KV head
  int chunks;          // items a KV head: of up to kDecodeHeads query heads each
  unsigned* counters;  // [rows * num_kv_heads * chunks] arrivals, zero between launches
  float* partials;     // [blocks][2][SlotFloats()]
  const float* rope;  // rope_table of the rows, [rows, head_dim]: queries and new keys are still to
  int64_t rope_stride;  // be turned; or nullptr

  __device__ __forceinline__ int SlotFloats() const { return kDecodeHeads * (paged.head_dim + 2); }
  // A block's partial result of the item that it begins (1) or goes on with (0): the sums
  // [kDecodeHeads, head_dim], then the tops and the totals.
  __device__ __forceinline__ float* Slot(int block, int begins) const {
    return partials + (int64_t{block} * 2 + begins) * SlotFloats();
  }
};

// In shared memory.
struct DecodeRows {
  int start[kMaxDecodeRows + 1];  // pages that the rows before see, of one head
};
struct DecodeMeeting {
  static constexpr int kParts = 48;  // at once

  float tops[kParts][kDecodeHeads];
  float totals[kParts][kDecodeHeads];
  int is_last;
};

template <typename T>
__device__ __forceinline__ int FirstPage(const PagedAttention<T>& paged, int context) {
  return paged.FirstSeen(context - 1) / kPage;
}

// Of start[1] to start[rows], what each row has, makes what the rows before it have. REQUIRES: all
// threads of the block, each with what it has written. Ends with the block in step.
__device__ __forceinline__ void AddUpRows(int* start, int rows) {
  __syncthreads();
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x;
    if (lane == 0) start[0] = 0;
    int before = 0;
    for (int base = 0; base < rows; base += 32) {
      const int row = base + lane;
      int sum = row < rows ? start[row + 1] : 0;
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const int other = __shfl_up_sync(~0u, sum, offset);
        if (lane >= offset) sum += other;
      }
      if (row < rows) start[row + 1] = before + sum;
      before += __shfl_sync(~0u, sum, 31);
    }
  }
  __syncthreads();
}

// REQUIRES: all threads of the block. Ends with the block in step.
template <typename T>
__device__ void CountPages(const PagedAttention<T>& paged, DecodeRows& rows) {
  for (int row = threadIdx.x; row < paged.rows; row += blockDim.x) {
    const int context = paged.ContextOrNone(row);
    const int pages = (context + kPage - 1) / kPage;
    rows.start[row + 1] = context == 0 ? 0 : pages - FirstPage(paged, context);
  }
  AddUpRows(rows.start, paged.rows);
}

// A stretch of one item.
struct DecodePiece {
  int row;
  int head;  // of the row's items
  int kv_head;
  int first_head;  // its query heads, [first_head, first_head + num_heads)
  int num_heads;
  int context;
  int page;        // absolute
  int count;       // pages of the piece
  int position;    // of the piece's first page in the line
  int item_begin;  // of the item's, and behind its last
  int item_end;

  __device__ __forceinline__ bool Whole() const { return count == item_end - item_begin; }
  __device__ __forceinline__ bool Last() const { return position + count == item_end; }
};

template <typename T>
struct DecodeLine {
  const DecodeProblem<T>& problem;
  const DecodeRows& rows;
  int items_of_row;
  int blocks;  // that have a share
  int each;    // pages of a block, the first `more` have one more
  int more;

  __device__ DecodeLine(const DecodeProblem<T>& p, const DecodeRows& r) : problem(p), rows(r) {
    items_of_row = problem.paged.num_kv_heads * problem.chunks;
    const int total = rows.start[problem.paged.rows] * items_of_row;
    blocks = max(min(total, static_cast<int>(gridDim.x)), 1);
    each = total / blocks;
    more = total % blocks;
  }

  __device__ __forceinline__ int Begin(int block) const {
    return block < blocks ? block * each + min(block, more) : blocks * each + more;
  }
  __device__ __forceinline__ int Owner(int position) const {
    const int longer = more * (each + 1);
    return position < longer ? position / (each + 1) : more + (position - longer) / each;
  }

  // body(piece), for this block's in their order.
  template <typename Body>
  __device__ __forceinline__ void ForEachPiece(const Body& body) const {
    const int end = Begin(blockIdx.x + 1);
    for (int at = Begin(blockIdx.x); at < end;) {
      const DecodePiece piece = PieceAt(at, end);
      body(piece);
      at += piece.count;
    }
  }

  __device__ __forceinline__ DecodePiece PieceAt(int at, int end) const {
    int row = 0;
    for (int above = problem.paged.rows; above - row > 1;) {
      const int middle = (row + above) / 2;
      if (rows.start[middle] * items_of_row <= at) {
        row = middle;
      } else {
        above = middle;
      }
    }
    const int pages = rows.start[row + 1] - rows.start[row];
    const int inside = at - rows.start[row] * items_of_row;
    DecodePiece piece;
    piece.row = row;
    piece.head = inside / pages;
    const int page = inside % pages;
    piece.kv_head = piece.head / problem.chunks;
    const int chunk = piece.head % problem.chunks;
    piece.first_head = piece.kv_head * problem.group + chunk * kDecodeHeads;
    piece.num_heads = min(problem.group - chunk * kDecodeHeads, kDecodeHeads);
    piece.context = problem.paged.Context(row);
    piece.page = FirstPage(problem.paged, piece.context) + page;
    piece.count = min(pages - page, end - at);
    piece.position = at;
    piece.item_begin = at - page;
    piece.item_end = piece.item_begin + pages;
    return piece;
  }
};

// The places of a page that the row's new token sees.
template <typename T>
__device__ __forceinline__ Range SeenOfPage(const PagedAttention<T>& paged, int context, int page) {
  const int first = page * kPage;
  return {max(paged.FirstSeen(context - 1) - first, 0), min(context - first, kPage)};
}

__device__ __forceinline__ void SyncDecodeThreads() {
  asm volatile("bar.sync 1, %0;" ::"n"(kDecodeThreads) : "memory");
}

// Counts one up, and returns how many came before: what this block wrote before its threads last
// met is then visible to whoever comes later, and what earlier ones wrote to this one's threads
// when they next meet.
__device__ __forceinline__ unsigned ArriveInOrder(unsigned* counter) {
  unsigned before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(counter)
               : "memory");
  return before;
}

// The tops and totals of `count` parts; behind them -infinity, which weighs nothing.
template <typename Part>
__device__ __forceinline__ void LoadTops(DecodeMeeting& meeting, int count, const Part& tops_of) {
  constexpr int kLoads = DecodeMeeting::kParts * kDecodeHeads / kDecodeThreads;
  float tops[kLoads];
  float totals[kLoads];
#pragma unroll
  for (int j = 0; j < kLoads; ++j) {
    const int place = j * kDecodeThreads + threadIdx.x;
    const float* from = tops_of(min(place / kDecodeHeads, count - 1)) + place % kDecodeHeads;
    tops[j] = __ldcg(from);
    totals[j] = __ldcg(from + kDecodeHeads);
  }
#pragma unroll
  for (int j = 0; j < kLoads; ++j) {
    const int place = j * kDecodeThreads + threadIdx.x;
    (&meeting.tops[0][0])[place] = place / kDecodeHeads < count ? tops[j] : -INFINITY;
    (&meeting.totals[0][0])[place] = totals[j];
  }
}

// Called once a block's partial result of a piece is in its slot: adds all of the item's up, if
// this block is the last to come. N elements at a time. REQUIRES: kDecodeThreads threads.
template <int N, typename T>
__device__ void FinishItem(const DecodeLine<T>& line, const DecodePiece& piece,
                           DecodeMeeting& meeting) {
  const DecodeProblem<T>& problem = line.problem;
  const int first = line.Owner(piece.item_begin);
  const int parts = line.Owner(piece.item_end - 1) - first + 1;
  SyncDecodeThreads();
  if (threadIdx.x == 0) {
    unsigned* counter = problem.counters + piece.row * line.items_of_row + piece.head;
    const bool is_last = ArriveInOrder(counter) == static_cast<unsigned>(parts - 1);
    if (is_last) *counter = 0;  // for the next launch
    meeting.is_last = is_last;
  }
  SyncDecodeThreads();
  if (!meeting.is_last) return;
  const int head_dim = problem.paged.head_dim;
  const auto slot = [&](int part) { return problem.Slot(first + part, part == 0); };
  for (int at = 0; at < piece.num_heads * head_dim; at += kDecodeThreads * N) {
    const int i = at + threadIdx.x * N;
    const bool has_work = i < piece.num_heads * head_dim;
    const int head = has_work ? i / head_dim : 0;
    float top = -INFINITY;
    float total = 0;
    float sums[N] = {};
    for (int base = 0; base < parts; base += DecodeMeeting::kParts) {
      const int count = min(parts - base, DecodeMeeting::kParts);
      constexpr int kAhead = 16;  // loads under way: no branch between them and their uses
      static_assert(DecodeMeeting::kParts % kAhead == 0);
      Pack<float, N> packs[kAhead];
      const auto load = [&](int part) {
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
          const float* from = slot(base + min(part + j, count - 1)) + (has_work ? i : 0);
          if constexpr (N == 4) {
            const float4 four = __ldcg(reinterpret_cast<const float4*>(from));
            packs[j] = {four.x, four.y, four.z, four.w};
          } else {
            packs[j] = {__ldcg(from)};
          }
        }
      };
      load(0);              // beside the tops
      SyncDecodeThreads();  // whoever still reads the last ones
      LoadTops(meeting, count,
               [&](int part) { return slot(base + part) + kDecodeHeads * head_dim; });
      SyncDecodeThreads();
      if (!has_work) continue;
      float after = top;
#pragma unroll 8
      for (int part = 0; part < count; ++part) after = fmaxf(after, meeting.tops[part][head]);
      const float reference = after == -INFINITY ? 0.0f : after;
      const float factor = exp2f(top - reference);
      top = after;
      total *= factor;
#pragma unroll
      for (int n = 0; n < N; ++n) sums[n] *= factor;
      for (int part = 0; part < count; part += kAhead) {
        if (part > 0) load(part);
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
          const float weight = exp2f(meeting.tops[part + j][head] - reference);
          total = fmaf(weight, meeting.totals[part + j][head], total);
#pragma unroll
          for (int n = 0; n < N; ++n) sums[n] = fmaf(weight, packs[j].at[n], sums[n]);
        }
      }
    }
    if (!has_work) continue;
    Pack<T, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j) result.at[j] = FromFloat<T>(sums[j] / total);
    T* out = problem.paged.Out(piece.row, piece.first_head + head) + i % head_dim;
    *reinterpret_cast<Pack<T, N>*>(out) = result;
  }
}

}  // namespace penstock::cuda
