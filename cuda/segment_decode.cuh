// decoder_attention's kernel in which a warp works alone, f16 and bf16: that of batches, and in the
// fixed order of sums (attention_segment.cuh) that of any.
//
// What lives where. A warp has a stretch of a sequence's KV head (segment_work.cuh) for up to 8 of
// its query heads. Keys and values are the tensor cores' first operand, 16 rows of it, and the
// heads the second, 8 columns: scores [keys, heads], sums [head dim, heads]. Scores, sums and
// queries stay in registers; slabs of pages (64 positions, 128 or 64 bytes of each) pass through a
// ring of the warp's own in shared memory, which another warp fills by tensor copies, ahead over
// the borders of works. Nothing is shared with other such pairs, so none waits for another.
//
// Where an item has several works, each leaves its sums in the workspace, and the last to arrive
// adds them up in ascending order: nobody waits. In the fixed order a work is a segment of 256
// positions at an absolute multiple of that, or all segments of an item: the same bits.
#pragma once

#include "cuda/segment_work.cuh"

namespace penstock::cuda {

template <typename T, int D, bool kFixed>
struct SegmentTile {
  using S = SwizzledTile<D>;
  using Shared = SegmentShared<D>;
  static constexpr int kSlabSteps = S::kColumns / 16;  // of the tensor cores, along the head dim

  const SegmentLine<T, kFixed>& line;
  Shared& shared;
  int lane = threadIdx.x % 32;
  SegmentPlace place;

  uint32_t queries[D / 16][2];
  float scores[kTileKeys / 16][4];  // of 16 keys each
  float sums[D / 16][4];            // of 16 columns of the head dim each
  float top[2];                     // of the segment, of the heads lane % 4 * 2 and the next
  float total[2];                   // this thread's part

  __device__ SegmentTile(const SegmentLine<T, kFixed>& l, Shared& s)
      : line(l),
        shared(s),
        place(SegmentLine<T, kFixed>::WarpOfBlock(), Shared::kSlabs, line.BusyWarps()) {}

  __device__ __forceinline__ uint32_t AwaitSlab() {
    Wait(&shared.full[place.Slab()], place.parity);
    return SharedAddress(shared.ring[place.Slab()].bytes);
  }
  // The slab's place is for another one.
  __device__ __forceinline__ void Release() {
    FenceReadsBeforeBulkWrites();
    Arrive(&shared.empty[place.Slab()]);  // each lane for its own reads
    place.Next();
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
    const float* angles = line.problem.Angles(work.row);
    if (angles != nullptr) TurnQueries<T, D, 1>(queries, angles);
  }

  // Sums and softmax begin anew.
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
        *reinterpret_cast<uint4*>(shared.ring[place.Slab()].bytes + i * 16) = uint4{};
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

  // A work that is one segment, whatever its length.
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
    float merged[D / 16][4] = {};
    float merged_top[2] = {-INFINITY, -INFINITY};
    float merged_total[2] = {};
    int page = work.first_page / kTilePages * kTilePages;
    while (page < work.end_page) {
      BeginSegment();
      const int end = min((page / kSegmentPages + 1) * kSegmentPages, work.end_page);
      for (; page < end; page += kTilePages) Tile(work, page);
      const SegmentMerge merges[2] = {{merged_top[0], top[0]}, {merged_top[1], top[1]}};
#pragma unroll
      for (int block = 0; block < D / 16; ++block) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          merged[block][i] = merges[i % 2].Merge(merged[block][i], sums[block][i]);
        }
      }
#pragma unroll
      for (int which = 0; which < 2; ++which) {
        merged_total[which] = merges[which].Merge(merged_total[which], ColumnTotal(total[which]));
        merged_top[which] = merges[which].top;
      }
    }
#pragma unroll
    for (int block = 0; block < D / 16; ++block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[block][i] = merged[block][i];
    }
    StoreOut(work, merged_total);
  }

  // The item's segments in ascending order: four heads at a time, a lane has four columns, or of
  // D = 96 three. Loads of eight segments are under way at once.
  __device__ void AddUp(const SegmentWork& work) {
    constexpr int kHeads = 4;
    constexpr int kAhead = 8;
    static_assert(kHeads * kAhead == 32);
    constexpr int kColumns = D / 32;
    const int heads = line.problem.item_heads;
    for (int base = 0; base < work.num_heads; base += kHeads) {
      float tops[kHeads];
      float totals[kHeads] = {};
      float all[kHeads][kColumns] = {};
#pragma unroll
      for (int h = 0; h < kHeads; ++h) tops[h] = -INFINITY;
      for (int segment = 0; segment < work.segments; segment += kAhead) {
        // A lane has the top and the total of one segment and head. Behind the last segment tops
        // are -infinity, which changes nothing.
        const auto slot = [&](int s) {
          return line.problem.Slot(work.first_slot + min(segment + s, work.segments - 1));
        };
        const int own_head = min(base + lane % kHeads, work.num_heads - 1);
        const float* own = slot(lane / kHeads) + heads * D + own_head;
        const float own_top = segment + lane / kHeads < work.segments ? __ldcg(own) : -INFINITY;
        const float own_total = __ldcg(own + heads);
        float of[kAhead][kHeads][kColumns];
#pragma unroll
        for (int s = 0; s < kAhead; ++s) {
#pragma unroll
          for (int h = 0; h < kHeads; ++h) {
            const int head = min(base + h, work.num_heads - 1);
            const float* from = slot(s) + head * D + lane * kColumns;
            if constexpr (kColumns == 4) {
              const float4 four = __ldcg(reinterpret_cast<const float4*>(from));
              of[s][h][0] = four.x;
              of[s][h][1] = four.y;
              of[s][h][2] = four.z;
              of[s][h][3] = four.w;
            } else {
#pragma unroll
              for (int c = 0; c < kColumns; ++c) of[s][h][c] = __ldcg(from + c);
            }
          }
        }
#pragma unroll
        for (int s = 0; s < kAhead; ++s) {
#pragma unroll
          for (int h = 0; h < kHeads; ++h) {
            const SegmentMerge merge(tops[h], __shfl_sync(~0u, own_top, s * kHeads + h));
            tops[h] = merge.top;
            totals[h] = merge.Merge(totals[h], __shfl_sync(~0u, own_total, s * kHeads + h));
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
              all[h][c] = merge.Merge(all[h][c], of[s][h][c]);
            }
          }
        }
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (base + h >= work.num_heads) break;
        T* out = line.problem.paged.Out(work.row, work.first_head + base + h) + lane * kColumns;
        const float by = Normaliser(totals[h]);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) out[c] = FromFloat<T>(__fmul_rn(all[h][c], by));
      }
    }
  }
};

// Eight warps that compute, and eight that fill their rings: so the loaders' code, which looks for
// works and divides them, stands once, and what a warp computes with it fits the instruction cache,
// which finds nothing of this kernel when a step comes to it.
template <typename T, int D, bool kFixed>
__global__ void __launch_bounds__(2 * kSegmentWarps * 32, 1)
    SegmentDecodeKernel(const __grid_constant__ SegmentProblem<T> problem,
                        const __grid_constant__ CacheMaps maps) {
  using Line = SegmentLine<T, kFixed>;
  extern __shared__ uint8_t bytes[];
  auto& shared = *reinterpret_cast<SegmentShared<D>*>(bytes + (-SharedAddress(bytes) & 1023));
  LetNextBegin();
  if (threadIdx.x == 0) {
    maps.Prefetch();
    for (int i = 0; i < SegmentShared<D>::kSlabs; ++i) {
      MakeBarrier(&shared.full[i], 1);
      MakeBarrier(&shared.empty[i], 32);
    }
    FenceBarriers();
  }
  const Line line(problem, shared.rows);
  if (threadIdx.x >= kSegmentWarps * 32) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    SegmentLoader<T, D, kFixed>(line, shared, maps).Run();
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 200;");
  WaitForInputs();
  SegmentTile<T, D, kFixed> tile(line, shared);
  for (int turn = 0; turn < line.count; turn += Line::NumWarps()) {
    const int index = Line::OfTurn(turn);
    if (index >= line.count) continue;
    const SegmentWork work = line.At(index);
    if (work.end_page == 0) continue;  // a row of padding
    tile.LoadQueries(work);
    if constexpr (kFixed) {
      if (line.part == 0) {
        tile.RunHead(work);
        continue;
      }
    }
    tile.RunSegment(work, index);
  }
}

}  // namespace penstock::cuda
