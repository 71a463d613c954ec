// decoder_attention's kernel for batches, f16 and bf16, up to 8 query heads a KV head: a warp works
// alone (warp_tile.cuh), on tiles dealt out as batch_share.cuh says, so that warps meet in parts of
// items only. Which rows are in the batch decides where items are cut: the same batch gives the
// same bits.
#pragma once

#include "cuda/batch_share.cuh"

namespace penstock::cuda {

// Counts one up in shared memory as ArriveInOrder() does, for the block's threads.
__device__ __forceinline__ unsigned ArriveInBlock(unsigned* counter) {
  unsigned before;
  asm volatile("atom.acq_rel.cta.shared::cta.add.u32 %0, [%1], 1;"
               : "=r"(before)
               : "r"(SharedAddress(counter))
               : "memory");
  return before;
}

template <typename T, int D>
struct BatchTile : WarpTile<T, D, WarpLoader<T, D, BatchLine<T, D>>> {
  using Loader = WarpLoader<T, D, BatchLine<T, D>>;
  using Tile = WarpTile<T, D, Loader>;
  using Tile::lane;
  using Tile::paged;
  using Tile::warp;

  const BatchLine<T, D>& line;
  __device__ BatchTile(const BatchLine<T, D>& l, Loader& loader)
      : Tile(l.problem.paged, l.shared.rings, loader), line(l) {}

  __device__ void Run(const BatchWork& work) {
    this->BeginSums();
    for (int page = work.first_page / kTilePages * kTilePages; page < work.end_page;
         page += kTilePages) {
      this->AddTile(work, page);
    }
    const float totals[2] = {ColumnTotal(this->total[0]), ColumnTotal(this->total[1])};
    if (work.begin == work.item_begin && work.end == work.item_end) {
      this->StoreOut(work, totals);
    } else {
      LeavePart(work, totals);
    }
  }

  // A block's parts: of warp w the item that it goes on with (2 w), the one that it begins
  // (2 w + 1); of the block the same two, behind them.
  __device__ __forceinline__ int PartOf(int of, int item_begin) const {
    return 2 * of + (item_begin >= line.shared.border[of] ? 1 : 0);
  }

  __device__ void LeavePart(const BatchWork& work, const float (&totals)[2]) {
    const BatchProblem<T>& problem = line.problem;
    const int block = blockIdx.x;
    const int begin = line.shared.border[0];
    const int end = line.shared.border[kAloneWarps];
    const bool is_inside = work.item_begin >= begin && work.item_end <= end;
    const int of_block = 2 * kAloneWarps + (work.item_begin >= begin ? 1 : 0);
    const int first = line.WarpOf(max(work.item_begin, begin));
    const int count = line.WarpOf(min(work.item_end, end) - 1) - first + 1;
    const int first_block = line.BlockOf(work.item_begin);
    const int blocks = line.BlockOf(work.item_end - 1) - first_block + 1;
    this->StorePart(work, totals, problem.group,
                    problem.Part(block, count > 1 ? PartOf(warp, work.item_begin) : of_block));
    // First those of the block's warps, then those of the blocks: one copy of the code.
#pragma unroll 1
    for (bool is_block = count == 1;; is_block = true) {
      unsigned* counter = problem.counters + work.item;
      if (!IsLast(is_block ? blocks : count, [&] {
            return is_block ? ArriveInOrder(counter) : ArriveInBlock(&line.shared.come[first]);
          })) {
        return;
      }
      if (is_block && lane == 0) *counter = 0;  // for the next launch
      const bool is_result = is_block || is_inside;
      AddUpParts<D>(
          work.num_heads, problem.group, is_block ? blocks : count,
          [&](int i) {
            return is_block ? problem.Part(first_block + i, 2 * kAloneWarps + (i == 0 ? 1 : 0))
                            : problem.Part(block, PartOf(first + i, work.item_begin));
          },
          [&](int head, int column, const auto& sums, float top, float total) {
            if (is_result) {
              T* out = paged.Out(work.row, work.first_head + head) + column;
              const float by = Normaliser(total);
#pragma unroll
              for (int c = 0; c < D / 32; ++c) out[c] = FromFloat<T>(sums[c] * by);
              return;
            }
            float* to = problem.Part(block, of_block);
#pragma unroll
            for (int c = 0; c < D / 32; ++c) to[head * D + column + c] = sums[c];
            if (lane > 0) return;
            to[problem.group * D + head] = top;
            to[problem.group * (D + 1) + head] = total;
          });
      if (is_result) return;
    }
  }

  // Whether this warp's part was the last of `count`: it sees the others then.
  template <typename Come>
  __device__ __forceinline__ bool IsLast(int count, const Come& arrive) const {
    __syncwarp();
    unsigned before = 0;
    if (lane == 0) before = arrive();
    before = __shfl_sync(~0u, before, 0);
    __syncwarp();
    return before == static_cast<unsigned>(count - 1);
  }
};

template <typename T, int D>
__global__ void __launch_bounds__(kAloneWarps * 32, 1)
    BatchDecodeKernel(const __grid_constant__ BatchProblem<T> problem,
                      const __grid_constant__ CacheMaps maps) {
  extern __shared__ uint8_t bytes[];
  auto& shared = *reinterpret_cast<BatchShared<D>*>(bytes + (-SharedAddress(bytes) & 1023));
  LetNextBegin();
  if (threadIdx.x == 0) shared.rings.MakeBarriers();
  const BatchLine<T, D> line(problem, shared);
  WarpLoader<T, D, BatchLine<T, D>> loader(line, shared.rings, shared.queues[threadIdx.x / 32],
                                           maps);
  BatchTile<T, D> tile(line, loader);
  loader.Begin(kEarlySlabs);
  for (int i = 0; i < loader.taken; ++i) {
    const BatchWork work = loader.At(i);
    tile.LoadQueries(work);
    loader.TakeAnother();
    tile.Run(work);
  }
}

}  // namespace penstock::cuda
