// decoder_attention's kernel in the fixed order of sums (attention_segment.cuh), f16 and bf16.
//
// A warp works alone (warp_tile.cuh): it has a segment of a sequence's KV head, 256 positions at
// absolute multiples of 256, for up to 8 of its query heads.
//
// The segments of all sequences and heads are dealt out to the warps in turn. Where a sequence has
// several, each leaves its sums in the workspace, and the last to arrive adds them up in ascending
// order: nobody waits. A batch with work enough for that, or with more segments than the workspace
// has room for, is dealt out by heads instead, each with all its segments: the same bits.
#pragma once

#include "cuda/segment_work.cuh"

namespace penstock::cuda {

template <typename T, int D>
struct SegmentTile : WarpTile<T, D, WarpLoader<T, D, SegmentLine<T>>> {
  using Loader = WarpLoader<T, D, SegmentLine<T>>;
  using Tile = WarpTile<T, D, Loader>;
  using Tile::AddTile;
  using Tile::BeginSums;
  using Tile::lane;
  using Tile::StoreOut;
  using Tile::StorePart;
  using Tile::sums;
  using Tile::top;
  using Tile::total;

  const SegmentLine<T>& line;

  __device__ SegmentTile(const SegmentLine<T>& l, WarpRings<D>& rings, Loader& loader)
      : Tile(l.problem.paged, rings, loader), line(l) {}

  // A work that is a segment.
  __device__ void RunSegment(const SegmentWork& work) {
    BeginSums();
    for (int page = work.first_page / kTilePages * kTilePages; page < work.end_page;
         page += kTilePages) {
      AddTile(work, page);
    }
    const float totals[2] = {ColumnTotal(total[0]), ColumnTotal(total[1])};
    if (work.segments == 1) return StoreOut(work, totals);
    StorePart(work, totals, line.problem.item_heads, line.problem.Slot(work.index));
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
      BeginSums();
      const int end = min((page / kSegmentPages + 1) * kSegmentPages, work.end_page);
      for (; page < end; page += kTilePages) AddTile(work, page);
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

  // The item's segments in ascending order.
  __device__ void AddUp(const SegmentWork& work) {
    AddUpParts<D>(
        work.num_heads, line.problem.item_heads, work.segments,
        [&](int segment) { return line.problem.Slot(work.first_slot + segment); },
        [&](int head, int column, const auto& all, float, float of_all) {
          T* out = line.problem.paged.Out(work.row, work.first_head + head) + column;
          const float by = Normaliser(of_all);
#pragma unroll
          for (int c = 0; c < D / 32; ++c) out[c] = FromFloat<T>(__fmul_rn(all[c], by));
        });
  }
};

template <typename T, int D>
__global__ void __launch_bounds__(kAloneWarps * 32, 1)
    SegmentDecodeKernel(const __grid_constant__ SegmentProblem<T> problem,
                        const __grid_constant__ CacheMaps maps) {
  extern __shared__ uint8_t bytes[];
  auto& shared = *reinterpret_cast<SegmentShared<D>*>(bytes + (-SharedAddress(bytes) & 1023));
  LetNextBegin();
  if (threadIdx.x == 0) shared.rings.MakeBarriers();
  CountSegments(problem.paged, shared.start, &shared.longest);
  const SegmentLine<T> line(problem, shared.start, shared.longest);
  WarpLoader<T, D, SegmentLine<T>> loader(line, shared.rings, shared.queues[threadIdx.x / 32],
                                          maps);
  SegmentTile<T, D> tile(line, shared.rings, loader);
  loader.Begin(kEarlySlabs);
  for (int i = 0; i < loader.taken; ++i) {
    const SegmentWork work = loader.At(i);
    tile.LoadQueries(work);
    loader.TakeAnother();
    if (line.by_heads) {
      tile.RunHead(work);
    } else {
      tile.RunSegment(work);
    }
  }
}

}  // namespace penstock::cuda
