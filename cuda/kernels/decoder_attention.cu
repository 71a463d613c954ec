#include "core/kernels/decoder_attention.h"
#include "cuda/decode_share.cuh"
#include "cuda/decode_tile.cuh"
#include "cuda/kernels/fused_launchers.h"
#include "cuda/kernels/launchers.h"
#include "cuda/plain_attention.cuh"
#include "cuda/read_once.h"
#include "cuda/segment_decode.cuh"
#include "cuda/skinny_linear.h"

namespace penstock::cuda {
namespace {

// Every type and head dim.
template <typename T>
__global__ void __launch_bounds__(kPlainThreads)
    DecodePlainKernel(const __grid_constant__ DecodeProblem<T> problem) {
  static_assert(kPlainThreads == kDecodeThreads && kPlainRows == kDecodeHeads);
  extern __shared__ __align__(16) float floats[];
  __shared__ DecodeRows rows;
  __shared__ DecodeMeeting meeting;
  const PagedAttention<T>& paged = problem.paged;
  const int head_dim = paged.head_dim;
  LetNextBegin();
  WaitForInputs();
  CountPages(paged, rows);
  const DecodeLine<T> line(problem, rows);
  PlainAttention attention(floats, head_dim, paged.scale);
  line.ForEachPiece([&](const DecodePiece& piece) {
    if (piece.Last()) {
      // Each block of the KV head that reads the new token's key and value writes them, the same
      // bytes; Begin() puts the block in step.
      const int position = piece.context - 1;
      const int block = paged.Block(piece.row, position / kPage);
      for (int i = threadIdx.x; i < 2 * head_dim; i += kPlainThreads) {
        const int head = i < head_dim ? piece.kv_head : paged.num_kv_heads + piece.kv_head;
        paged.Keys(block, head)[position % kPage * head_dim + i % head_dim] =
            paged.NewKey(piece.row, head)[i % head_dim];
      }
    }
    attention.Begin(piece.num_heads,
                    [&](int row) { return paged.Query(piece.row, piece.first_head + row); });
    __syncthreads();
    for (int page = piece.page; page < piece.page + piece.count; ++page) {
      const int block = paged.Block(piece.row, page);
      attention.Attend(paged.Keys(block, piece.kv_head), paged.Values(block, piece.kv_head),
                       SeenOfPage(paged, piece.context, page), [](int, int) { return true; });
    }
    const bool whole = piece.Whole();
    float* slot = problem.Slot(blockIdx.x, piece.position == piece.item_begin);
#pragma unroll
    for (int step = 0; step < kPlainSteps; ++step) {
      const int at = threadIdx.x + step * kPlainThreads;
      if (at >= head_dim) break;
#pragma unroll
      for (int row = 0; row < kPlainRows; ++row) {
        if (row >= piece.num_heads) break;
        const float sum = attention.sums[row][step];
        if (whole) {
          paged.Out(piece.row, piece.first_head + row)[at] =
              FromFloat<T>(sum / attention.total[row]);
        } else {
          slot[row * head_dim + at] = sum;
        }
      }
    }
    if (whole) return;
    if (threadIdx.x < piece.num_heads) {
      slot[kDecodeHeads * head_dim + threadIdx.x] = attention.top[threadIdx.x];
      slot[kDecodeHeads * (head_dim + 1) + threadIdx.x] = attention.total[threadIdx.x];
    }
    FinishItem<1>(line, piece, meeting);
  });
}

template <typename T>
void LaunchPlain(cudaStream_t stream, const DecodeProblem<T>& problem) {
  const size_t shared = PlainAttention::SharedBytes(problem.paged.head_dim);
  AllowShared(DecodePlainKernel<T>, shared);
  Launch(stream, {dim3(Blocks(kDecodeBlocks * NumMultiprocessors())), dim3(kPlainThreads), shared},
         DecodePlainKernel<T>, problem);
}

template <int D, typename T>
void LaunchTile(cudaStream_t stream, const DecodeProblem<T>& problem) {
  const size_t shared = sizeof(DecodeRing<D>);
  AllowShared(DecodeTileKernel<T, D>, shared);
  Launch(stream, {dim3(Blocks(2 * NumMultiprocessors())), dim3(kDecodeThreads + 32), shared},
         DecodeTileKernel<T, D>, problem);
}

int64_t Chunks(const HeadLayout& heads) {
  return (heads.num_heads / heads.num_kv_heads + kDecodeHeads - 1) / kDecodeHeads;
}

// Partial results stand first: where the counters are does not depend on the rows of a call, and
// so they are zero for a call of any size.
int64_t PartialBytes(const HeadLayout& heads) {
  return int64_t{2} * kDecodeBlocks * NumMultiprocessors() * kDecodeHeads * (heads.head_dim + 2) *
         static_cast<int64_t>(sizeof(float));
}

int64_t ItemHeads(const HeadLayout& heads) {
  return std::min<int64_t>(heads.num_heads / heads.num_kv_heads, kSegmentHeads);
}
int64_t SegmentChunks(const HeadLayout& heads) {
  return (heads.num_heads / heads.num_kv_heads + kSegmentHeads - 1) / kSegmentHeads;
}

int64_t SlotBytes(const HeadLayout& heads) {
  return int64_t{4} *
         SegmentSlotFloats(static_cast<int>(ItemHeads(heads)), static_cast<int>(heads.head_dim));
}
// Of the fixed order for 4096 positions of 1000 KV heads of four query heads, say. Of the other for
// two works a warp: with more there is hardly a reason to divide an item.
int64_t SegmentSlots(const HeadLayout& heads, SumOrder order) {
  return order == SumOrder::kFixed ? (int64_t{32} << 20) / SlotBytes(heads)
                                   : int64_t{2} * kSegmentWarps * NumMultiprocessors() + 1024;
}

// Before the counters, whichever kernel a call takes.
int64_t PartsBytes(const HeadLayout& heads, SumOrder order) {
  const int64_t segments = SegmentSlots(heads, order) * SlotBytes(heads);
  return order == SumOrder::kFixed ? segments : std::max(segments, PartialBytes(heads));
}

// Where a warp on its own is faster than four together: many rows, whose query heads meet keys and
// values at once. Not where its slabs are half as large, heads of 96.
bool TakesSegments(const HeadLayout& heads, int64_t rows) {
  return rows > kSkinnyTokens && SegmentChunks(heads) == 1 && heads.head_dim != 96;
}

template <int D, bool kFixed, typename T>
void LaunchSegments(cudaStream_t stream, const AttentionArgs& args, SegmentProblem<T> problem) {
  const HeadLayout& heads = args.heads;
  problem.group = static_cast<int>(heads.num_heads / heads.num_kv_heads);
  problem.chunks = static_cast<int>(SegmentChunks(heads));
  problem.item_heads = static_cast<int>(ItemHeads(heads));
  const int64_t rows = args.kv.num_elements() / D;
  PENSTOCK_CHECK_LE(rows, INT32_MAX);
  const auto map = [&](int box_rows) {
    return MakeTensorMap(args.kv.raw(), args.kv.type(), rows, D, box_rows,
                         SwizzledTile<D>::kColumns);
  };
  const size_t shared = SegmentShared<D>::Bytes();
  AllowShared(SegmentDecodeKernel<T, D, kFixed>, shared);
  Launch(stream, {dim3(Blocks(NumMultiprocessors())), dim3(2 * kSegmentWarps * 32), shared},
         SegmentDecodeKernel<T, D, kFixed>, problem, CacheMaps{map(kPage), map(8)});
}

template <bool kFixed, typename T>
void LaunchSegments(cudaStream_t stream, const AttentionArgs& args,
                    const SegmentProblem<T>& problem) {
  const int64_t head_dim = args.heads.head_dim;
  if (head_dim == 64) return LaunchSegments<64, kFixed>(stream, args, problem);
  if (head_dim == 128) return LaunchSegments<128, kFixed>(stream, args, problem);
  if constexpr (kFixed) return LaunchSegments<96, kFixed>(stream, args, problem);
  CheckFailed(__FILE__, __LINE__, "the kernel for batches has no such head dim");
}

}  // namespace

int64_t DecoderAttentionWorkspace(const HeadLayout& heads, int64_t max_rows, SumOrder order) {
  return PartsBytes(heads, order) + max_rows * heads.num_kv_heads * SegmentChunks(heads) *
                                        static_cast<int64_t>(sizeof(unsigned));
}

bool HasRopeDecoderAttention(const AttentionArgs& args) {
  const int64_t dim = args.heads.head_dim;
  return Info(args.kv.type()).block_bytes == 2 && IsWide(args) &&
         (dim == 64 || dim == 96 || dim == 128);
}

namespace {

// With a rope_table queries and keys are still to be turned.
void LaunchAttention(cudaStream_t stream, const AttentionArgs& args, const Tensor& workspace,
                     SumOrder order, const Tensor& rope_table) {
  const HeadLayout& heads = args.heads;
  const int64_t rows = args.context_lens.dim(0);
  PENSTOCK_CHECK_EQ(args.qkv.dim(0), rows);
  PENSTOCK_CHECK_LE(rows, kMaxDecodeRows);
  PENSTOCK_CHECK_LE(rows * args.block_tables.dim(1) * heads.num_kv_heads * SegmentChunks(heads),
                    INT32_MAX);
  PENSTOCK_CHECK_GE(workspace.bytes(), DecoderAttentionWorkspace(heads, rows, order));
  const bool fixed = order == SumOrder::kFixed;
  PENSTOCK_CHECK(!fixed || HasFixedOrder(args.kv.type(), heads));
  const float* rope = nullptr;
  int64_t rope_stride = 0;
  if (!rope_table.empty()) {
    PENSTOCK_CHECK(HasRopeDecoderAttention(args) && IsWide(rope_table, heads.head_dim));
    PENSTOCK_CHECK(rope_table.shape() == Shape({rows, heads.head_dim}));
    rope = Elements<const float>(rope_table);
    rope_stride = rope_table.stride(0);
  }
  auto* parts = Elements<uint8_t>(workspace);
  auto* counters = reinterpret_cast<unsigned*>(parts + PartsBytes(heads, order));
  ForElementType(args.kv.type(), [&](auto element) {
    using T = decltype(element);
    if constexpr (sizeof(T) == 2) {
      if (fixed || (HasRopeDecoderAttention(args) && TakesSegments(heads, rows))) {
        PENSTOCK_CHECK(IsWide(args));
        SegmentProblem<T> problem = {};
        problem.paged = MakePagedAttention<T>(args);
        problem.rope = rope;
        problem.rope_stride = rope_stride;
        problem.slots = static_cast<int>(SegmentSlots(heads, order));
        problem.counters = counters;
        problem.partials = reinterpret_cast<float*>(parts);
        problem.read_once = ReadOnceBits() & 1;
        if (fixed) return LaunchSegments<true>(stream, args, problem);
        return LaunchSegments<false>(stream, args, problem);
      }
    }
    DecodeProblem<T> problem = {};
    problem.paged = MakePagedAttention<T>(args);
    problem.group = static_cast<int>(heads.num_heads / heads.num_kv_heads);
    problem.chunks = static_cast<int>(Chunks(heads));
    problem.counters = counters;
    problem.partials = reinterpret_cast<float*>(parts);
    problem.rope = rope;
    problem.rope_stride = rope_stride;
    if constexpr (sizeof(T) == 2) {
      if (IsWide(args)) {
        if (heads.head_dim == 64) return LaunchTile<64>(stream, problem);
        if (heads.head_dim == 96) return LaunchTile<96>(stream, problem);
        if (heads.head_dim == 128) return LaunchTile<128>(stream, problem);
      }
    }
    LaunchPlain(stream, problem);
  });
}

}  // namespace

void LaunchDecoderAttention(cudaStream_t stream, const AttentionArgs& args, const Tensor& workspace,
                            SumOrder order) {
  LaunchAttention(stream, args, workspace, order, Tensor());
}

void LaunchRopeDecoderAttention(cudaStream_t stream, const Tensor& rope_table,
                                const AttentionArgs& args, const Tensor& workspace,
                                SumOrder order) {
  PENSTOCK_CHECK(!rope_table.empty());
  LaunchAttention(stream, args, workspace, order, rope_table);
}

}  // namespace penstock::cuda
