#include "core/kernels/flash_attention.h"
#include "cuda/flash_tile.cuh"
#include "cuda/kernels/launchers.h"
#include "cuda/plain_attention.cuh"

namespace penstock::cuda {
namespace {

// Every type and head dim.
template <typename T>
__global__ void __launch_bounds__(kPlainThreads)
    FlashPlainKernel(const __grid_constant__ PagedAttention<T> paged) {
  extern __shared__ __align__(16) float floats[];
  LetNextBegin();
  WaitForInputs();
  const QueryTile tile = FindQueryTile(paged, kPlainRows, static_cast<int>(blockIdx.y));
  const int head = BlockHead();
  if (tile.row < 0 || head >= paged.num_heads) return;
  const int kv_head = head / (paged.num_heads / paged.num_kv_heads);
  PlainAttention attention(floats, paged.head_dim, paged.scale);
  attention.Begin(tile.count, [&](int row) { return paged.Query(tile.token + row, head); });
  for (int page = tile.first_seen / kPage; page * kPage < tile.end_seen; ++page) {
    const int block = paged.Block(tile.row, page);
    const int first = page * kPage;
    const Range seen = {max(tile.first_seen - first, 0), min(tile.end_seen - first, kPage)};
    attention.Attend(
        paged.Keys(block, kv_head), paged.Values(block, kv_head), seen, [&](int row, int place) {
          const int position = tile.position + row;
          return first + place <= position && first + place >= paged.FirstSeen(position);
        });
  }
#pragma unroll
  for (int step = 0; step < kPlainSteps; ++step) {
    const int at = threadIdx.x + step * kPlainThreads;
    if (at >= paged.head_dim) break;
#pragma unroll
    for (int row = 0; row < kPlainRows; ++row) {
      if (row >= tile.count) break;
      paged.Out(tile.token + row, head)[at] =
          FromFloat<T>(attention.sums[row][step] / attention.total[row]);
    }
  }
}

// Heads, tiles, sections of heads: blocks start in that order. The keys and values of a section,
// which all its tiles read, stay in level 2, and within it the longest tiles come first. But it is
// two blocks for each multiprocessor or more: each section has a tail of short tiles.
dim3 Grid(const AttentionArgs& args, int64_t tile_tokens) {
  constexpr int64_t kSectionBytes = int64_t{32} << 20;
  const HeadLayout& heads = args.heads;
  const int64_t rows = args.context_lens.dim(0);
  const int64_t tiles = MaxQueryTiles(args.qkv.dim(0), rows, tile_tokens);
  PENSTOCK_CHECK_LE(tiles, 65535);
  const int64_t group = heads.num_heads / heads.num_kv_heads;
  // Of one KV head: how long the sequences are, only the device knows, but not above their tables.
  const int64_t bytes = 2 * rows * args.block_tables.dim(1) * kBlockSize * heads.head_dim *
                        Info(args.kv.type()).block_bytes;
  const int64_t least = (2 * NumMultiprocessors() + tiles * group - 1) / (tiles * group);
  const int64_t most = std::min(std::max(kSectionBytes / bytes, least), heads.num_kv_heads);
  const int64_t sections = (heads.num_kv_heads + most - 1) / most;
  const int64_t kv_heads = (heads.num_kv_heads + sections - 1) / sections;
  return dim3(Blocks(kv_heads * group), Blocks(tiles), Blocks(heads.num_kv_heads, kv_heads));
}

template <int D, bool kSegments, typename T>
void LaunchTile(cudaStream_t stream, const AttentionArgs& args, const PagedAttention<T>& paged) {
  const int64_t rows = args.kv.num_elements() / D;
  PENSTOCK_CHECK_LE(rows, INT32_MAX);
  const CUtensorMap map =
      MakeTensorMap(args.kv.raw(), args.kv.type(), rows, D, kPage, SwizzledTile<D>::kColumns);
  const size_t shared =
      FlashShared<D>::kBytes + (kSegments ? FlashShared<D>::kMergedBytes : size_t{0});
  AllowShared(FlashTileKernel<T, D, kSegments>, shared);
  Launch(stream, {Grid(args, kFlashQueries), dim3(kFlashThreads), shared},
         FlashTileKernel<T, D, kSegments>, paged, map);
}

template <int D, typename T>
void LaunchTile(cudaStream_t stream, const AttentionArgs& args, const PagedAttention<T>& paged,
                SumOrder order) {
  if (order == SumOrder::kFixed) return LaunchTile<D, true>(stream, args, paged);
  LaunchTile<D, false>(stream, args, paged);
}

}  // namespace

bool HasFixedOrder(DataType type, const HeadLayout& heads) {
  return (type == DataType::kF16 || type == DataType::kBF16) &&
         (heads.head_dim == 64 || heads.head_dim == 96 || heads.head_dim == 128);
}

void LaunchFlashAttention(cudaStream_t stream, const AttentionArgs& args, SumOrder order) {
  PENSTOCK_CHECK(order == SumOrder::kFastest ||
                 (HasFixedOrder(args.kv.type(), args.heads) && IsWide(args)));
  PENSTOCK_CHECK_EQ(args.row_starts.dim(0), args.context_lens.dim(0) + 1);
  ForElementType(args.kv.type(), [&](auto element) {
    using T = decltype(element);
    const PagedAttention<T> paged = MakePagedAttention<T>(args);
    if constexpr (sizeof(T) == 2) {
      if (IsWide(args)) {
        if (args.heads.head_dim == 64) return LaunchTile<64>(stream, args, paged, order);
        if (args.heads.head_dim == 96) return LaunchTile<96>(stream, args, paged, order);
        if (args.heads.head_dim == 128) return LaunchTile<128>(stream, args, paged, order);
      }
    }
    const size_t shared = PlainAttention::SharedBytes(args.heads.head_dim);
    AllowShared(FlashPlainKernel<T>, shared);
    Launch(stream, {Grid(args, kPlainRows), dim3(kPlainThreads), shared}, FlashPlainKernel<T>,
           paged);
  });
}

}  // namespace penstock::cuda
