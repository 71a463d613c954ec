// What a warp that works alone does with its work (warp_ring.cuh): up to 8 query heads meet a
// stretch of a sequence's KV head.
//
// Keys and values are the tensor cores' first operand, 16 rows of it, and the heads the second, 8
// columns: scores [keys, heads], sums [head dim, heads]. Scores, sums and queries stay in
// registers; slabs of pages (64 positions, 128 or 64 bytes of each) pass through the warp's ring,
// filled by tensor copies that run ahead over the borders of works.
#pragma once

#include "cuda/warp_ring.cuh"

namespace penstock::cuda {

template <typename T, int D, typename Loader>
struct WarpTile {
  using S = SwizzledTile<D>;
  using Rings = WarpRings<D>;
  static constexpr int kSlabSteps = S::kColumns / 16;  // of the tensor cores, along the head dim

  const PagedAttention<T>& paged;
  Rings& rings;
  Loader& loader;
  int warp = threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  int slot = 0;
  unsigned parity = 0;

  uint32_t queries[D / 16][2];
  float scores[kTileKeys / 16][4];  // of 16 keys each
  float sums[D / 16][4];            // of 16 columns of the head dim each
  float top[2];                     // of the sums, of the heads lane % 4 * 2 and the next
  float total[2];                   // this thread's part

  __device__ WarpTile(const PagedAttention<T>& p, Rings& r, Loader& from)
      : paged(p), rings(r), loader(from) {}

  __device__ __forceinline__ uint32_t AwaitSlab() {
    Wait(&rings.full[warp][slot], parity);
    return SharedAddress(rings.ring[warp][slot].bytes);
  }
  // The slab has been read by all lanes: its place is for the next one.
  __device__ __forceinline__ void Release() {
    FenceReadsBeforeBulkWrites();
    __syncwarp();
    loader.Next();
    if (++slot == Rings::kStages) {
      slot = 0;
      parity ^= 1;
    }
  }

  __device__ void LoadQueries(const WarpWork& work) {
    const int head = lane / 4;
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int at = k * 16 + lane % 4 * 2 + i * 8;
        const T* from = paged.Query(work.row, work.first_head + head) + at;
        queries[k][i] = head < work.num_heads ? *reinterpret_cast<const uint32_t*>(from) : 0u;
      }
    }
  }

  __device__ __forceinline__ void BeginSums() {
#pragma unroll
    for (int block = 0; block < D / 16; ++block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[block][i] = 0;
    }
    top[0] = top[1] = -INFINITY;
    total[0] = total[1] = 0;
  }

  // Adds the tile that begins at that page.
  __device__ __forceinline__ void AddTile(const WarpWork& work, int tile_page) {
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
    SoftmaxAcross(scores, paged.scale, top, total, factor);
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
  __device__ __forceinline__ static bool HasPage(const WarpWork& work, int page) {
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

  __device__ __forceinline__ void Mask(const WarpWork& work, int first) {
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
  __device__ __forceinline__ void AddValues(const WarpWork& work, int first, int half, int slab,
                                            const uint32_t (&weights)[kTileKeys / 16][2]) {
    const uint32_t values = AwaitSlab();
    if (first < work.first_seen || first + kPage > work.context) {
      // Nothing times what an unseen place may hold would not be nothing.
      constexpr int kUnits = S::kRowBytes / 16;
      for (int i = lane; i < kPage * kUnits; i += 32) {
        const int at = first + i / kUnits;
        if (at >= work.first_seen && at < work.context) continue;
        *reinterpret_cast<uint4*>(rings.ring[warp][slot].bytes + i * 16) = uint4{};
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
  __device__ __forceinline__ void ForEachSum(const WarpWork& work, const Body& body) {
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

  __device__ void StoreOut(const WarpWork& work, const float (&totals)[2]) {
    const float by[2] = {Normaliser(totals[0]), Normaliser(totals[1])};
    ForEachSum(work, [&](int head, int column, int which, float sum) {
      paged.Out(work.row, work.first_head + head)[column] = FromFloat<T>(__fmul_rn(sum, by[which]));
    });
  }

  // As a part of an item's result, [item_heads, D] sums, tops and totals.
  __device__ void StorePart(const WarpWork& work, const float (&totals)[2], int item_heads,
                            float* to) {
    ForEachSum(work, [&](int head, int column, int, float sum) { to[head * D + column] = sum; });
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const int head = lane % 4 * 2 + which;
      if (lane >= 4 || head >= work.num_heads) continue;
      to[item_heads * D + head] = top[which];
      to[item_heads * (D + 1) + head] = totals[which];
    }
  }
};

// Floats of a part, WarpTile::StorePart's.
__host__ __device__ constexpr int PartFloats(int item_heads, int head_dim) {
  return (item_heads * (head_dim + 2) + 3) / 4 * 4;  // 16-byte loads
}

// Adds up `count` parts of an item's result, part_at(i), in ascending order: four heads at a time,
// a lane has D / 32 columns. sink(head, first column, sums, top, total) gets a head's result.
// Loads of eight parts are under way at once. One warp.
template <int D, typename PartAt, typename Sink>
__device__ void AddUpParts(int num_heads, int item_heads, int count, const PartAt& part_at,
                           const Sink& sink) {
  constexpr int kHeads = 4;
  constexpr int kAhead = 8;
  static_assert(kHeads * kAhead == 32);
  constexpr int kColumns = D / 32;
  const int lane = threadIdx.x % 32;
  for (int base = 0; base < num_heads; base += kHeads) {
    float tops[kHeads];
    float totals[kHeads] = {};
    float all[kHeads][kColumns] = {};
#pragma unroll
    for (int h = 0; h < kHeads; ++h) tops[h] = -INFINITY;
    for (int part = 0; part < count; part += kAhead) {
      // A lane has the top and the total of one part and head. Behind the last part tops
      // are -infinity, which changes nothing.
      const auto slot = [&](int s) { return part_at(min(part + s, count - 1)); };
      const int own_head = min(base + lane % kHeads, num_heads - 1);
      const float* own = slot(lane / kHeads) + item_heads * D + own_head;
      const float own_top = part + lane / kHeads < count ? __ldcg(own) : -INFINITY;
      const float own_total = __ldcg(own + item_heads);
      float of[kAhead][kHeads][kColumns];
#pragma unroll
      for (int s = 0; s < kAhead; ++s) {
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
          const int head = min(base + h, num_heads - 1);
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
      if (base + h >= num_heads) break;
      sink(base + h, lane * kColumns, all[h], tops[h], totals[h]);
    }
  }
}

}  // namespace penstock::cuda
