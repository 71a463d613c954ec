// decoder_attention's kernel for f16 and bf16: keys and values stream through a ring in shared
// memory, filled by bulk copies, and meet up to 16 query heads on the tensor cores.
//
// What lives where. A multiprocessor has two blocks, each with a ring of 96 KiB of pages of keys
// and of values in turn; one warp fills it and runs ahead over the borders of items. What earlier
// steps wrote waits for nobody: the ring fills while the kernel before still runs (programmatic
// dependent launch). The new token's key and value, which that kernel makes, come out of qkv into
// registers, from there into the cache, and into their page once it is in the ring. Queries and
// keys may still have to be turned by their positions: then bias_rope needs no launch of its own.
// Queries and sums stay in registers. Each of four warps scores 16 of a page's tokens; then they
// exchange tops and weights through shared memory, and each has a quarter of the head dim of the
// output, so that no sums meet at an item's end. Every byte of keys and values is read from device
// memory once and from shared memory once.
#pragma once

#include "cuda/decode_share.cuh"
#include "cuda/new_token.cuh"

namespace penstock::cuda {

// A page lies in the ring as eight groups of eight tokens, 16 bytes between the groups. Token
// 8 g + j has place 8 j + g in the order of scores and weights: the eight tokens that ldmatrix
// reads at once are of eight groups, and meet all banks once.
template <int D>
struct DecodeRing {
  static constexpr int kGroups = 8;
  static constexpr int kGroupTokens = kPage / kGroups;
  static constexpr int kTokenBytes = D * 2;
  static constexpr int kGroupBytes = kGroupTokens * kTokenBytes + 16;
  static constexpr int kStageBytes = kGroups * kGroupBytes;
  static constexpr int kStages = 99840 / kStageBytes;

  static constexpr int kLine = kPage + 8;  // of weights, whose rows lie in banks of their own

  uint8_t stages[kStages][kStageBytes];
  uint16_t weights[kDecodeHeads][kLine];
  float tops[4][kDecodeHeads];  // of each warp
  float totals[4][kDecodeHeads];
  uint64_t full[kStages];
  uint64_t empty[kStages];
  DecodeRows rows;
  DecodeMeeting meeting;
};

// One warp, which waits for no earlier kernel of the step.
template <typename T, int D>
__device__ void FillDecodeRing(const DecodeLine<T>& line, DecodeRing<D>& ring) {
  using R = DecodeRing<D>;
  const PagedAttention<T>& paged = line.problem.paged;
  const int lane = threadIdx.x % 32;
  const uint64_t policy = EvictFirst();
  RingPlace<R::kStages> place;
  const auto load = [&](const T* from, Range groups) {
    Wait(&ring.empty[place.slot], place.parity ^ 1);
    if (ElectOne()) {
      ArriveExpecting(&ring.full[place.slot],
                      (groups.end - groups.begin) * R::kGroupTokens * R::kTokenBytes);
      for (int group = groups.begin; group < groups.end; ++group) {
        BulkLoad(ring.stages[place.slot] + group * R::kGroupBytes,
                 from + group * R::kGroupTokens * D, R::kGroupTokens * R::kTokenBytes,
                 &ring.full[place.slot], policy);
      }
    }
    place.Next();
  };
  line.ForEachPiece([&](const DecodePiece& piece) {
    for (int base = 0; base < piece.count; base += 32) {
      const int pages = min(piece.count - base, 32);
      const int mine = lane < pages ? paged.Block(piece.row, piece.page + base + lane) : 0;
      for (int i = 0; i < pages; ++i) {
        const int block = __shfl_sync(~0u, mine, i);
        const Range seen = SeenOfPage(paged, piece.context, piece.page + base + i);
        // At the new token's place lies anything.
        const Range groups = {seen.begin / R::kGroupTokens,
                              (seen.end + R::kGroupTokens - 1) / R::kGroupTokens};
        load(paged.Keys(block, piece.kv_head), groups);
        load(paged.Values(block, piece.kv_head), groups);
      }
    }
  });
}

// What the four warps do with an item.
template <typename T, int D>
struct DecodeTile {
  using R = DecodeRing<D>;
  static constexpr int kWarpBlocks = D / 4 / 8;  // a warp's share of the head dim, in columns of 8

  const DecodeLine<T>& line;
  R& ring;
  RingPlace<R::kStages> place;
  int warp = threadIdx.x / 32;
  int lane = threadIdx.x % 32;

  uint32_t queries[D / 16][4];
  float sums[kWarpBlocks][4];
  float top[2];    // of rows lane / 4 and + 8, the same in all warps
  float total[2];  // this thread's part
  uint4 pack;      // the new token's, of the first warp's lanes: its key, then its value

  __device__ DecodeTile(const DecodeLine<T>& l, R& r) : line(l), ring(r) {}

  __device__ __forceinline__ void Release() {
    FenceReadsBeforeBulkWrites();
    Arrive(&ring.empty[place.slot]);  // each lane for its own reads
    place.Next();
  }

  __device__ void Begin(const DecodePiece& piece) {
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int head = lane / 4 + i % 2 * 8;
        const int at = k * 16 + lane % 4 * 2 + i / 2 * 8;
        const T* from = line.problem.paged.Query(piece.row, piece.first_head + head) + at;
        queries[k][i] = head < piece.num_heads ? *reinterpret_cast<const uint32_t*>(from) : 0u;
      }
    }
    if (piece.Last() && warp == 0) AppendToken(piece);
    if (line.problem.rope != nullptr) TurnQueries<T, D, 2>(queries, Angles(piece));
#pragma unroll
    for (int block = 0; block < kWarpBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[block][i] = 0;
    }
    top[0] = top[1] = -INFINITY;
    total[0] = total[1] = 0;
  }

  __device__ __forceinline__ const float* Angles(const DecodePiece& piece) const {
    const float* rope = line.problem.rope;
    return rope == nullptr ? nullptr : rope + piece.row * line.problem.rope_stride;
  }

  // Each block of the KV head that reads the new token's page does it, with the same bytes.
  static constexpr int kPacks = kHeadPacks<D>;
  __device__ __forceinline__ void AppendToken(const DecodePiece& piece) {
    pack = StoreNewToken<T, D>(line.problem.paged, piece.row, piece.kv_head, piece.context - 1,
                               Angles(piece), lane);
  }
  // Into the stage that is next, of keys or of values.
  __device__ __forceinline__ void PutToken(int token, bool is_key) {
    if (warp != 0 || lane >= 2 * kPacks || (lane < kPacks) != is_key) return;
    uint8_t* to = ring.stages[place.slot] + token / R::kGroupTokens * R::kGroupBytes +
                  token % R::kGroupTokens * R::kTokenBytes;
    reinterpret_cast<uint4*>(to)[lane % kPacks] = pack;
  }

  // `has_new`: its last place that is seen is the new token's.
  __device__ void Page(Range seen, bool has_new) {
    float scores[2][4];
    Wait(&ring.full[place.slot], place.parity);
    if (has_new) {
      PutToken(seen.end - 1, true);
      SyncDecodeThreads();
    }
    Score(seen, scores);
    Weigh(scores);
    Wait(&ring.full[place.slot], place.parity);
    if (has_new) PutToken(seen.end - 1, false);
    if (seen.begin > 0 || seen.end < kPage) ClearUnseen(seen);
    SyncDecodeThreads();
    AddValues();
    Release();
  }

  // scores[i] of the places (2 warp + i) * 8 on, unseen ones -infinity.
  __device__ __forceinline__ void Score(Range seen, float (&scores)[2][4]) {
    // Lanes of eight: group 2 warp (+ 1), columns of the first (second) half of 16.
    const uint32_t keys = SharedAddress(ring.stages[place.slot]) + lane % 8 * R::kGroupBytes +
                          (2 * warp + lane / 16) * R::kTokenBytes + lane / 8 % 2 * 16;
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[0][i] = scores[1][i] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      uint32_t of[4];
      LoadMatrices(of, keys + k * 32);
      MultiplyAdd<T>(scores[0], queries[k], of[0], of[1]);
      MultiplyAdd<T>(scores[1], queries[k], of[2], of[3]);
    }
    Release();
    const float scale = line.problem.paged.scale;
#pragma unroll
    for (int block = 0; block < 2; ++block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = (lane % 4 * 2 + i % 2) * R::kGroupTokens + 2 * warp + block;
        const bool in = token >= seen.begin && token < seen.end;
        scores[block][i] = in ? scores[block][i] * scale : -INFINITY;
      }
    }
  }

  // Tops over the page, weights into shared memory, older sums to the new top.
  __device__ __forceinline__ void Weigh(const float (&scores)[2][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = fmaxf(fmaxf(scores[0][half * 2], scores[0][half * 2 + 1]),
                         fmaxf(scores[1][half * 2], scores[1][half * 2 + 1]));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      if (lane % 4 == 0) ring.tops[warp][lane / 4 + half * 8] = most;
    }
    SyncDecodeThreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + half * 8;
      const float after = fmaxf(fmaxf(fmaxf(ring.tops[0][row], ring.tops[1][row]),
                                      fmaxf(ring.tops[2][row], ring.tops[3][row])),
                                top[half]);
      const float base = after == -INFINITY ? 0.0f : after;  // scores that are all NaN
      const float factor = FastExp2(top[half] - base);
      top[half] = after;
      total[half] *= factor;
#pragma unroll
      for (int block = 0; block < kWarpBlocks; ++block) {
        sums[block][half * 2] *= factor;
        sums[block][half * 2 + 1] *= factor;
      }
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        const float first = FastExp2(scores[block][half * 2] - base);
        const float second = FastExp2(scores[block][half * 2 + 1] - base);
        total[half] += first + second;
        const int column = (2 * warp + block) * 8 + lane % 4 * 2;
        *reinterpret_cast<uint32_t*>(&ring.weights[row][column]) = PackTwo<T>(first, second);
      }
    }
  }

  // Nothing times what an unseen place may hold would not be nothing.
  __device__ void ClearUnseen(Range seen) {
    uint8_t* values = ring.stages[place.slot];
    for (int i = threadIdx.x; i < kPage * kPacks; i += kDecodeThreads) {
      const int token = i / kPacks;
      if (token >= seen.begin && token < seen.end) continue;
      uint8_t* at = values + token / R::kGroupTokens * R::kGroupBytes +
                    token % R::kGroupTokens * R::kTokenBytes + i % kPacks * 16;
      *reinterpret_cast<uint4*>(at) = uint4{};
    }
  }

  // sums += weights values, for this warp's columns.
  __device__ __forceinline__ void AddValues() {
    uint32_t of_weights[kPage / 16][4];
    const uint32_t weights = SharedAddress(&ring.weights[lane % 16][lane / 16 * 8]);
#pragma unroll
    for (int k = 0; k < kPage / 16; ++k) LoadMatrices(of_weights[k], weights + k * 32);
    // Lanes of eight: 32 places, eight of each of four j.
    const uint32_t values = SharedAddress(ring.stages[place.slot]) + lane % 8 * R::kGroupBytes +
                            lane / 8 * R::kTokenBytes + warp * kWarpBlocks * 16;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int block = 0; block < kWarpBlocks; ++block) {
        uint32_t of[4];
        LoadTransposed(of, values + half * 4 * R::kTokenBytes + block * 16);
        MultiplyAdd<T>(sums[block], of_weights[half * 2], of[0], of[1]);
        MultiplyAdd<T>(sums[block], of_weights[half * 2 + 1], of[2], of[3]);
      }
    }
  }

  __device__ void End(const DecodePiece& piece) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = total[half];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (lane % 4 == 0) ring.totals[warp][lane / 4 + half * 8] = sum;
    }
    SyncDecodeThreads();
    const DecodeProblem<T>& problem = line.problem;
    const bool whole = piece.Whole();
    float* slot = problem.Slot(blockIdx.x, piece.position == piece.item_begin);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + half * 8;
      if (row >= piece.num_heads) continue;
      const float all =
          (ring.totals[0][row] + ring.totals[1][row]) + (ring.totals[2][row] + ring.totals[3][row]);
      const float by = 1.0f / all;
#pragma unroll
      for (int block = 0; block < kWarpBlocks; ++block) {
        const int column = (warp * kWarpBlocks + block) * 8 + lane % 4 * 2;
        const float first = sums[block][half * 2];
        const float second = sums[block][half * 2 + 1];
        if (whole) {
          T* out = problem.paged.Out(piece.row, piece.first_head + row) + column;
          *reinterpret_cast<uint32_t*>(out) = PackTwo<T>(first * by, second * by);
        } else {
          *reinterpret_cast<float2*>(slot + row * D + column) = {first, second};
        }
      }
      if (!whole && warp == 0 && lane % 4 == 0) {
        slot[kDecodeHeads * D + row] = top[half];
        slot[kDecodeHeads * (D + 1) + row] = all;
      }
    }
    if (!whole) FinishItem<4>(line, piece, ring.meeting);
  }
};

template <typename T, int D>
__global__ void __launch_bounds__(kDecodeThreads + 32, 2)
    DecodeTileKernel(const __grid_constant__ DecodeProblem<T> problem) {
  using R = DecodeRing<D>;
  extern __shared__ __align__(128) uint8_t shared[];
  auto& ring = *reinterpret_cast<R*>(shared);
  LetNextBegin();
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < R::kStages; ++slot) {
      MakeBarrier(&ring.full[slot], 1);
      MakeBarrier(&ring.empty[slot], kDecodeThreads);
    }
    FenceBarriers();
  }
  CountPages(problem.paged, ring.rows);
  const DecodeLine<T> line(problem, ring.rows);
  if (threadIdx.x >= kDecodeThreads) {
    FillDecodeRing<T, D>(line, ring);
    return;
  }
  bool has_waited = false;
  DecodeTile<T, D> tile(line, ring);
  line.ForEachPiece([&](const DecodePiece& piece) {
    if (!has_waited) WaitForInputs();
    has_waited = true;
    tile.Begin(piece);
    for (int i = 0; i < piece.count; ++i) {
      tile.Page(SeenOfPage(problem.paged, piece.context, piece.page + i),
                piece.Last() && i + 1 == piece.count);
    }
    tile.End(piece);
  });
  // Who has nothing to do makes room at once; but the kernel ends after the one before it, as the
  // next one takes for granted.
  if (!has_waited && blockIdx.x == 0) WaitForInputs();
}

}  // namespace penstock::cuda
