#include "core/kernels/decoder_attention.h"
#include "cuda/decode_share.cuh"
#include "cuda/decode_tile.cuh"
#include "cuda/kernels/fused_launchers.h"
#include "cuda/kernels/launchers.h"
#include "cuda/plain_attention.cuh"
#include "cuda/segment_decode.cuh"

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

// Of the fixed order.
int64_t SlotBytes(const HeadLayout& heads) {
  return int64_t{4} *
         SegmentSlotFloats(static_cast<int>(ItemHeads(heads)), static_cast<int>(heads.head_dim));
}
// For 4096 positions of 1000 KV heads of four query heads, say.
int64_t SegmentSlots(const HeadLayout& heads) { return (int64_t{32} << 20) / SlotBytes(heads); }

template <int D, typename T>
void LaunchSegments(cudaStream_t stream, const AttentionArgs& args, uint8_t* workspace) {
  const HeadLayout& heads = args.heads;
  const SegmentProblem<T> problem = {
      MakePagedAttention<T>(args),
      static_cast<int>(heads.num_heads / heads.num_kv_heads),
      static_cast<int>(SegmentChunks(heads)),
      static_cast<int>(ItemHeads(heads)),
      static_cast<int>(SegmentSlots(heads)),
      reinterpret_cast<unsigned*>(workspace + SegmentSlots(heads) * SlotBytes(heads)),
      reinterpret_cast<float*>(workspace)};
  const int64_t rows = args.kv.num_elements() / D;
  PENSTOCK_CHECK_LE(rows, INT32_MAX);
  const CUtensorMap map =
      MakeTensorMap(args.kv.raw(), args.kv.type(), rows, D, kPage, SwizzledTile<D>::kColumns);
  const size_t shared = SegmentShared<D>::kBytes;
  AllowShared(SegmentDecodeKernel<T, D>, shared);
  Launch(stream, {dim3(Blocks(NumMultiprocessors())), dim3(kSegmentWarps * 32), shared},
         SegmentDecodeKernel<T, D>, problem, map);
}

}  // namespace

int64_t DecoderAttentionWorkspace(const HeadLayout& heads, int64_t max_rows, SumOrder order) {
  const bool fixed = order == SumOrder::kFixed;
  return (fixed ? SegmentSlots(heads) * SlotBytes(heads) : PartialBytes(heads)) +
         max_rows * heads.num_kv_heads * (fixed ? SegmentChunks(heads) : Chunks(heads)) *
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
  PENSTOCK_CHECK_LE(rows * args.block_tables.dim(1) * heads.num_kv_heads * Chunks(heads),
                    INT32_MAX);
  PENSTOCK_CHECK_GE(workspace.bytes(), DecoderAttentionWorkspace(heads, rows, order));
  PENSTOCK_CHECK(order == SumOrder::kFastest || HasFixedOrder(args.kv.type(), heads));
  ForElementType(args.kv.type(), [&](auto element) {
    using T = decltype(element);
    auto* partials = Elements<uint8_t>(workspace);
    if constexpr (sizeof(T) == 2) {
      if (order == SumOrder::kFixed) {
        PENSTOCK_CHECK(IsWide(args));
        if (heads.head_dim == 64) return LaunchSegments<64, T>(stream, args, partials);
        if (heads.head_dim == 96) return LaunchSegments<96, T>(stream, args, partials);
        return LaunchSegments<128, T>(stream, args, partials);
      }
    }
    DecodeProblem<T> problem = {};
    problem.paged = MakePagedAttention<T>(args);
    problem.group = static_cast<int>(heads.num_heads / heads.num_kv_heads);
    problem.chunks = static_cast<int>(Chunks(heads));
    problem.counters = reinterpret_cast<unsigned*>(partials + PartialBytes(heads));
    problem.partials = reinterpret_cast<float*>(partials);
    if (!rope_table.empty()) {
      PENSTOCK_CHECK(HasRopeDecoderAttention(args) && IsWide(rope_table, heads.head_dim));
      PENSTOCK_CHECK(rope_table.shape() == Shape({rows, heads.head_dim}));
      problem.rope = Elements<const float>(rope_table);
      problem.rope_stride = rope_table.stride(0);
    }
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
                                const AttentionArgs& args, const Tensor& workspace) {
  PENSTOCK_CHECK(!rope_table.empty());
  LaunchAttention(stream, args, workspace, SumOrder::kFastest, rope_table);
}

}  // namespace penstock::cuda
