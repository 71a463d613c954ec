// How flash_attention divides a ragged batch among its blocks: tiles of so many query tokens of one
// sequence, the last tiles first, since they have the most to read. blockIdx.y is the tile, x the
// head within the section z.
#pragma once

#include "cuda/paged_attention.cuh"

namespace penstock::cuda {

struct QueryTile {
  int row = -1;        // -1: none
  int token = 0;       // of qkv and out, the tile's first
  int count = 0;       // tokens
  int position = 0;    // of the first
  int first_seen = 0;  // by any token of the tile
  int end_seen = 0;    // behind the last that is seen
};

// Tiles that a batch has at most; how many it has, only the device knows.
inline int64_t MaxQueryTiles(int64_t tokens, int64_t rows, int64_t tile_tokens) {
  return tokens / tile_tokens + rows;
}

__device__ __forceinline__ int BlockHead() {
  return static_cast<int>(blockIdx.z * gridDim.x + blockIdx.x);
}

// Over the lanes before and this one. REQUIRES: all lanes take part.
__device__ __forceinline__ int SumUpToLane(int value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(~0u, value, offset);
    if (lane >= offset) value += other;
  }
  return value;
}

// The tile of that index. REQUIRES: all lanes of a warp take part, with the same index.
template <typename T>
__device__ QueryTile FindQueryTile(const PagedAttention<T>& paged, int tile_tokens, int index) {
  const int lane = threadIdx.x % 32;
  const auto tiles_of = [&](int row) {
    if (row >= paged.rows) return 0;
    const int tokens = paged.row_starts[row + 1] - paged.row_starts[row];
    DeviceCheck(tokens >= 0);
    return (tokens + tile_tokens - 1) / tile_tokens;
  };
  int total = 0;
  for (int base = 0; base < paged.rows; base += 32) {
    total += __shfl_sync(~0u, SumUpToLane(tiles_of(base + lane)), 31);
  }
  QueryTile tile;
  int target = total - 1 - index;
  if (target < 0) return tile;
  for (int base = 0;; base += 32) {
    const int tiles = tiles_of(base + lane);
    const int sum = SumUpToLane(tiles);
    const unsigned beyond = __ballot_sync(~0u, sum > target);
    if (beyond == 0) {
      target -= __shfl_sync(~0u, sum, 31);
      continue;
    }
    const int found = __ffs(static_cast<int>(beyond)) - 1;
    const int of_row = target - __shfl_sync(~0u, sum - tiles, found);
    tile.row = base + found;
    const int begin = paged.row_starts[tile.row];
    const int tokens = paged.row_starts[tile.row + 1] - begin;
    const int context = paged.Context(tile.row);
    DeviceCheck(tokens <= context);
    tile.token = begin + of_row * tile_tokens;
    tile.count = min(tokens - of_row * tile_tokens, tile_tokens);
    tile.position = context - tokens + of_row * tile_tokens;
    tile.first_seen = paged.FirstSeen(tile.position);
    tile.end_seen = tile.position + tile.count;
    return tile;
  }
}

}  // namespace penstock::cuda
