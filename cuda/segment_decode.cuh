// decoder_attention's kernel in the fixed order of sums (attention_segment.cuh), f16 and bf16.
//
// What lives where. A warp works alone: it has a segment of a sequence's KV head, 256 positions at
// absolute multiples of 256, for up to 8 of its query heads. Keys and values are the tensor cores'
// first operand, 16 rows of it, and the heads the second, 8 columns: scores [keys, heads], sums
// [head dim, heads]. Scores, sums and queries stay in registers; slabs of pages
// (64 positions, 128 or 64 bytes of each) pass through a ring of the warp's own in shared memory,
// filled by tensor copies that run ahead over the borders of segments.
//
// The segments of all sequences and heads are dealt out to the warps in turn. Where a sequence has
// several, each leaves its sums in the workspace, and the last to arrive adds them up in ascending
// order: nobody waits. A batch of more segments than the workspace has room for is dealt out by
// heads instead, each with all its segments: the same bits.
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

template <typename T>
struct SegmentProblem {
  PagedAttention<T> paged;
  int group;           // query heads a KV head
  int chunks;          // items a KV head: of up to kSegmentHeads query heads each
  int item_heads;      // the most that an item has
  int slots;           // that `partials` has; at least the warps of a grid
  unsigned* counters;  // [rows * num_kv_heads * chunks] arrivals, zero between launches
  float* partials;     // [slots][SlotFloats()]

  __host__ __device__ __forceinline__ int SlotFloats() const {
    return item_heads * (paged.head_dim + 2);
  }
  // The sums [item_heads, head_dim], then the tops and the totals.
  __device__ __forceinline__ float* Slot(int index) const {
    return partials + int64_t{index} * SlotFloats();
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

  static constexpr size_t kBytes = 1024 + sizeof(Slab) * kSegmentWarps * kStages +
                                   sizeof(uint64_t) * kSegmentWarps * kStages +
                                   sizeof(int) * (kMaxDecodeRows + 1);
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

  __device__ SegmentLine(const SegmentProblem<T>& p, const int* s) : problem(p), start(s) {
    items_of_row = problem.paged.num_kv_heads * problem.chunks;
    const int segments = start[problem.paged.rows] * items_of_row;
    by_heads = segments > problem.slots;
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

// Counts the segments of the rows. REQUIRES: all threads of the block. Ends with them in step.
template <typename T>
__device__ void CountSegments(const PagedAttention<T>& paged, int* start) {
  for (int row = threadIdx.x; row < paged.rows; row += blockDim.x) {
    const int context = paged.ContextOrNone(row);
    start[row + 1] = context == 0 ? 0
                                  : (context + kSegmentKeys - 1) / kSegmentKeys -
                                        paged.FirstSeen(context - 1) / kSegmentKeys;
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x;
    if (lane == 0) start[0] = 0;
    int before = 0;
    for (int base = 0; base < paged.rows; base += 32) {
      const int row = base + lane;
      int sum = row < paged.rows ? start[row + 1] : 0;
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const int other = __shfl_up_sync(~0u, sum, offset);
        if (lane >= offset) sum += other;
      }
      if (row < paged.rows) start[row + 1] = before + sum;
      before += __shfl_sync(~0u, sum, 31);
    }
  }
  __syncthreads();
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
  int base;

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
    base = first;
    const int mine = first + lane;
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

template <typename T, int D>
struct SegmentTile {
  using S = SwizzledTile<D>;
  using Shared = SegmentShared<D>;
  static constexpr int kSlabSteps = S::kColumns / 16;  // of the tensor cores, along the head dim

  const SegmentLine<T>& line;
  Shared& shared;
  SegmentLoader<T, D>& loader;
  int warp = threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  int slot = 0;
  unsigned parity = 0;

  uint32_t queries[D / 16][2];
  float scores[kTileKeys / 16][4];  // of 16 keys each
  float sums[D / 16][4];            // of 16 columns of the head dim each
  float top[2];                     // of the segment, of the heads lane % 4 * 2 and the next
  float total[2];                   // this thread's part

  __device__ SegmentTile(const SegmentLine<T>& l, Shared& s, SegmentLoader<T, D>& from)
      : line(l), shared(s), loader(from) {}

  __device__ __forceinline__ uint32_t AwaitSlab() {
    Wait(&shared.full[warp][slot], parity);
    return SharedAddress(shared.ring[warp][slot].bytes);
  }
  // The slab has been read by all lanes: its place is for the next one.
  __device__ __forceinline__ void Release() {
    FenceReadsBeforeBulkWrites();
    __syncwarp();
    loader.Next();
    if (++slot == Shared::kStages) {
      slot = 0;
      parity ^= 1;
    }
  }

  __device__ void LoadQueries(const SegmentWork& work) {
    const int head = lane / 4;
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int at = k * 16 + lane % 4 * 2 + i * 8;
        const T* from = line.problem.paged.Query(work.row, work.first_head + head) + at;
        queries[k][i] = head < work.num_heads ? *reinterpret_cast<const uint32_t*>(from) : 0u;
      }
    }
  }

  __device__ __forceinline__ void BeginSegment() {
#pragma unroll
    for (int block = 0; block < D / 16; ++block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[block][i] = 0;
    }
    top[0] = top[1] = -INFINITY;
    total[0] = total[1] = 0;
  }

  // The tile that begins at that page.
  __device__ __forceinline__ void Tile(const SegmentWork& work, int tile_page) {
#pragma unroll
    for (int i = 0; i < kTileKeys / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) scores[i][j] = 0;
    }
#pragma unroll
    for (int half = 0; half < kTilePages; ++half) {
      if (!HasPage(work, tile_page + half)) continue;
#pragma unroll
      for (int slab = 0; slab < S::kSlabs; ++slab) Score(half, slab);
    }
    Mask(work, tile_page * kPage);
    float factor[2];
    SoftmaxAcross(scores, line.problem.paged.scale, top, total, factor);
    uint32_t weights[kTileKeys / 16][2];
#pragma unroll
    for (int i = 0; i < kTileKeys / 16; ++i) {
      weights[i][0] = Transpose(PackTwo<T>(scores[i][0], scores[i][1]));
      weights[i][1] = Transpose(PackTwo<T>(scores[i][2], scores[i][3]));
    }
#pragma unroll
    for (int block = 0; block < D / 16; ++block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[block][i] *= factor[i % 2];
    }
#pragma unroll
    for (int half = 0; half < kTilePages; ++half) {
      if (!HasPage(work, tile_page + half)) continue;
#pragma unroll
      for (int slab = 0; slab < S::kSlabs; ++slab) {
        AddValues(work, (tile_page + half) * kPage, half, slab, weights);
      }
    }
  }
  // An 8 x 8 matrix of 16-bit elements, lane l with row l / 4, columns (l % 4) * 2 and the next.
  __device__ __forceinline__ static uint32_t Transpose(uint32_t two) {
    uint32_t result;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(two));
    return result;
  }
  __device__ __forceinline__ static bool HasPage(const SegmentWork& work, int page) {
    return page >= work.first_page && page < work.end_page;
  }

  // scores += keys queries^T, over the slab's columns, of the tile's page `half`.
  __device__ __forceinline__ void Score(int half, int slab) {
    const uint32_t keys = AwaitSlab();
    // Lanes of eight: 8 keys on, and then 16 bytes on along the rows.
    const int row = lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
    for (int k = 0; k < kSlabSteps; ++k) {
#pragma unroll
      for (int block = 0; block < kPage / 16; ++block) {
        uint32_t a[4];
        LoadMatrices(a, keys + S::UnitOffset(block * 16 + row, k * 2 + lane / 16));
        const auto& b = queries[slab * kSlabSteps + k];
        MultiplyAdd<T>(scores[half * (kPage / 16) + block], a, b[0], b[1]);
      }
    }
    Release();
  }

  __device__ __forceinline__ void Mask(const SegmentWork& work, int first) {
    const int begin = work.first_seen - first;
    const int end = work.context - first;
    if (begin <= 0 && end >= kTileKeys) return;
#pragma unroll
    for (int i = 0; i < kTileKeys / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = i * 16 + lane / 4 + j / 2 * 8;
        if (key < begin || key >= end) scores[i][j] = -INFINITY;
      }
    }
  }

  // sums += values^T weights, for the slab's columns.
  __device__ __forceinline__ void AddValues(const SegmentWork& work, int first, int half, int slab,
                                            const uint32_t (&weights)[kTileKeys / 16][2]) {
    const uint32_t values = AwaitSlab();
    if (first < work.first_seen || first + kPage > work.context) {
      // Nothing times what an unseen place may hold would not be nothing.
      constexpr int kUnits = S::kRowBytes / 16;
      for (int i = lane; i < kPage * kUnits; i += 32) {
        const int at = first + i / kUnits;
        if (at >= work.first_seen && at < work.context) continue;
        *reinterpret_cast<uint4*>(shared.ring[warp][slot].bytes + i * 16) = uint4{};
      }
      __syncwarp();
    }
    // Lanes of eight: 16 bytes on along the rows, and then 8 keys on.
    const int row = lane / 16 * 8 + lane % 8;
#pragma unroll
    for (int k = 0; k < kPage / 16; ++k) {
#pragma unroll
      for (int block = 0; block < kSlabSteps; ++block) {
        uint32_t a[4];
        LoadTransposed(a, values + S::UnitOffset(k * 16 + row, block * 2 + lane / 8 % 2));
        const auto& b = weights[half * (kPage / 16) + k];
        MultiplyAdd<T>(sums[slab * kSlabSteps + block], a, b[0], b[1]);
      }
    }
    Release();
  }

  // body(head of the item, column of the head dim, which of the two heads, sum), for each sum of
  // this thread's that is of a head.
  template <typename Body>
  __device__ __forceinline__ void ForEachSum(const SegmentWork& work, const Body& body) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int head = lane % 4 * 2 + i % 2;
      if (head >= work.num_heads) continue;
#pragma unroll
      for (int block = 0; block < D / 16; ++block) {
        body(head, block * 16 + lane / 4 + i / 2 * 8, i % 2, sums[block][i]);
      }
    }
  }

  __device__ void StoreOut(const SegmentWork& work, const float (&totals)[2]) {
    const float by[2] = {Normaliser(totals[0]), Normaliser(totals[1])};
    ForEachSum(work, [&](int head, int column, int which, float sum) {
      line.problem.paged.Out(work.row, work.first_head + head)[column] =
          FromFloat<T>(__fmul_rn(sum, by[which]));
    });
  }

  __device__ void StorePartial(const SegmentWork& work, const float (&totals)[2], float* to) {
    ForEachSum(work, [&](int head, int column, int, float sum) { to[head * D + column] = sum; });
    const int heads = line.problem.item_heads;
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const int head = lane % 4 * 2 + which;
      if (lane >= 4 || head >= work.num_heads) continue;
      to[heads * D + head] = top[which];
      to[heads * (D + 1) + head] = totals[which];
    }
  }

  // The segment is added to those before it, whose sums are in `merged`, each thread's own.
  __device__ void MergeInto(const SegmentWork& work, float* merged, float (&merged_top)[2],
                            float (&merged_total)[2]) {
    const SegmentMerge merges[2] = {{merged_top[0], top[0]}, {merged_top[1], top[1]}};
    ForEachSum(work, [&](int head, int column, int which, float& sum) {
      sum = merges[which].Merge(merged[head * D + column], sum);
      merged[head * D + column] = sum;
    });
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      merged_total[which] = merges[which].Merge(merged_total[which], ColumnTotal(total[which]));
      merged_top[which] = merges[which].top;
    }
  }

  // A work that is a segment.
  __device__ void RunSegment(const SegmentWork& work, int index) {
    BeginSegment();
    for (int page = work.first_page / kTilePages * kTilePages; page < work.end_page;
         page += kTilePages) {
      Tile(work, page);
    }
    const float totals[2] = {ColumnTotal(total[0]), ColumnTotal(total[1])};
    if (work.segments == 1) return StoreOut(work, totals);
    StorePartial(work, totals, line.problem.Slot(index));
    __syncwarp();
    unsigned before = 0;
    unsigned* counter = line.problem.counters + work.row * line.items_of_row + work.head;
    if (lane == 0) before = ArriveInOrder(counter);
    before = __shfl_sync(~0u, before, 0);
    __syncwarp();  // what others wrote is visible to all lanes
    if (before != static_cast<unsigned>(work.segments - 1)) return;
    if (lane == 0) *counter = 0;  // for the next launch
    AddUp(work);
  }

  // A work that is all segments of a head.
  __device__ void RunHead(const SegmentWork& work) {
    float* merged = line.problem.Slot(SegmentLine<T>::Warp());
    float merged_top[2] = {-INFINITY, -INFINITY};
    float merged_total[2] = {};
    ForEachSum(work, [&](int head, int column, int, float) { merged[head * D + column] = 0; });
    int page = work.first_page / kTilePages * kTilePages;
    while (page < work.end_page) {
      BeginSegment();
      const int end = min((page / kSegmentPages + 1) * kSegmentPages, work.end_page);
      for (; page < end; page += kTilePages) Tile(work, page);
      MergeInto(work, merged, merged_top, merged_total);
    }
    StoreOut(work, merged_total);
  }

  // The item's segments in ascending order: four heads at a time, a lane has D / 32 columns.
  __device__ void AddUp(const SegmentWork& work) {
    constexpr int kHeads = 4;
    constexpr int kAhead = 4;  // segments whose loads are under way
    constexpr int kColumns = D / 32;
    const int heads = line.problem.item_heads;
    for (int base = 0; base < work.num_heads; base += kHeads) {
      float tops[kHeads];
      float totals[kHeads] = {};
      float all[kHeads][kColumns] = {};
#pragma unroll
      for (int h = 0; h < kHeads; ++h) tops[h] = -INFINITY;
      for (int segment = 0; segment < work.segments; segment += kAhead) {
        float top_of[kAhead][kHeads];
        float total_of[kAhead][kHeads];
        float of[kAhead][kHeads][kColumns];
#pragma unroll
        for (int s = 0; s < kAhead; ++s) {
          const float* from =
              line.problem.Slot(work.first_slot + min(segment + s, work.segments - 1));
#pragma unroll
          for (int h = 0; h < kHeads; ++h) {
            const int head = min(base + h, work.num_heads - 1);
            top_of[s][h] = __ldcg(from + heads * D + head);
            total_of[s][h] = __ldcg(from + heads * (D + 1) + head);
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
              of[s][h][c] = __ldcg(from + head * D + c * 32 + lane);
            }
          }
        }
#pragma unroll
        for (int s = 0; s < kAhead; ++s) {
          if (segment + s >= work.segments) break;
#pragma unroll
          for (int h = 0; h < kHeads; ++h) {
            const SegmentMerge merge(tops[h], top_of[s][h]);
            tops[h] = merge.top;
            totals[h] = merge.Merge(totals[h], total_of[s][h]);
#pragma unroll
            for (int c = 0; c < kColumns; ++c) all[h][c] = merge.Merge(all[h][c], of[s][h][c]);
          }
        }
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (base + h >= work.num_heads) break;
        T* out = line.problem.paged.Out(work.row, work.first_head + base + h);
        const float by = Normaliser(totals[h]);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) out[c * 32 + lane] = FromFloat<T>(all[h][c] * by);
      }
    }
  }
};

template <typename T, int D>
__global__ void __launch_bounds__(kSegmentWarps * 32, 1)
    SegmentDecodeKernel(const __grid_constant__ SegmentProblem<T> problem,
                        const __grid_constant__ CUtensorMap map) {
  extern __shared__ uint8_t bytes[];
  auto& shared = *reinterpret_cast<SegmentShared<D>*>(bytes + (-SharedAddress(bytes) & 1023));
  LetNextBegin();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kSegmentWarps * SegmentShared<D>::kStages; ++i) {
      MakeBarrier(&shared.full[0][0] + i, 1);
    }
    FenceBarriers();
  }
  WaitForInputs();
  CountSegments(problem.paged, shared.start);
  const SegmentLine<T> line(problem, shared.start);
  SegmentLoader<T, D> loader(line, shared, map);
  SegmentTile<T, D> tile(line, shared, loader);
  for (int index = SegmentLine<T>::Warp(); index < line.count;
       index += SegmentLine<T>::NumWarps()) {
    const SegmentWork work = line.At(index);
    if (work.end_page == 0) continue;  // a row of padding
    tile.LoadQueries(work);
    if (line.by_heads) {
      tile.RunHead(work);
    } else {
      tile.RunSegment(work, index);
    }
  }
}

}  // namespace penstock::cuda
