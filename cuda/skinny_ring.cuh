// The device code of skinny_linear: a block's weights through a ring in shared memory that one warp
// fills and eight warps empty.
#pragma once

#include "cuda/bulk_copy.cuh"
#include "cuda/launch.h"
#include "cuda/skinny_linear.h"
#include "cuda/swiglu.cuh"

namespace penstock::cuda {

using Bf16 = __nv_bfloat16;

inline constexpr int kGroupRows = 16;  // of the weight: the m of one tensor core instruction
inline constexpr int kGroups = 2;      // whose sums a warp holds at once
inline constexpr int kStageK = 512;    // of a group's rows: 16 KiB, rows of 1 KiB
inline constexpr int kPassStages = 4;  // of k, that a pass goes through with each group: 2048 k's
inline constexpr int kPassK = kStageK * kPassStages;
inline constexpr int kBuffers = 2;  // a warp's registers hold x for so many passes: 4096 k's
inline constexpr int kChunkK = 32;  // a lane's 16 bytes of each row, twice the k of one instruction
// Rows lie half a bank cycle apart, so that the eight lanes that are served together, four in each
// of two rows, meet all banks once.
inline constexpr int kRowBytes = kStageK * 2 + 64;
inline constexpr int kStageBytes = kRowBytes * kGroupRows;
inline constexpr int64_t kPrefetchBytes = 16 << 10;         // of the next weight, a block
inline constexpr int kWarps = 8;                            // that compute; one more loads
inline constexpr int kChunks = kStageK / kWarps / kChunkK;  // a warp's of a stage

template <int kTokens, int kDepth>
struct SkinnyRing {
  static constexpr int kStages = kDepth;

  uint8_t stages[kStages][kStageBytes];
  float sums[kWarps * kTokens * kGroups * kGroupRows];  // [warp][token][row]
  uint64_t full[kStages];
  uint64_t empty[kStages];

  // By one thread; then the block meets.
  __device__ __forceinline__ void MakeBarriers() {
    for (int slot = 0; slot < kStages; ++slot) {
      MakeBarrier(&full[slot], 1);
      MakeBarrier(&empty[slot], kWarps * 32);
    }
    FenceBarriers();
  }
};

struct SkinnyProblem {
  const Bf16* x;
  const Bf16* weight;
  Bf16* out;
  float* out_f32;  // in its place, or nullptr
  bool adds;       // to what is in out_f32
  int num_tokens;
  int in_features;
  int64_t x_stride;
  int64_t out_stride;
  int num_groups;  // of rows of the weight
  // From a group's first row to the next group's, and to its own ninth: 16 and 8, or for a gated
  // product 8 and the rows of gate: eight rows of gate then meet the same of up.
  int group_step;
  int lower_apart;
  const Bf16* next_weight;  // or nullptr
  int next_in_features;
  int next_groups;
};

// This block's groups, [first, last).
struct Share {
  int first;
  int last;
};
__device__ __forceinline__ Share BlockShare(int num_groups) {
  return {static_cast<int>(int64_t{num_groups} * blockIdx.x / gridDim.x),
          static_cast<int>(int64_t{num_groups} * (blockIdx.x + 1) / gridDim.x)};
}

// In which order stages pass through the ring, the same for who fills and who empties it; always
// two groups at a time. kHeld, of 4096 k's, for which the registers hold all of x: group by group.
// kWhole, of a multiple of 2048 k's, and kAny: a pass of 2048 k's at a time, with each group.
enum class SkinnyOrder : uint8_t { kHeld, kWhole, kAny };

__device__ __host__ __forceinline__ SkinnyOrder OrderOf(int in_features) {
  if (in_features == kBuffers * kPassK) return SkinnyOrder::kHeld;
  return in_features % kPassK == 0 ? SkinnyOrder::kWhole : SkinnyOrder::kAny;
}

// body(group - base, its place in the registers of x, its first k); end_first(pass, place in the
// registers of the other buffer), once the first group has met the pass.
template <SkinnyOrder kOrder, int kBuffer, typename Body, typename EndFirst>
__device__ __forceinline__ void OnePass(int base, int last, int stages, int pass, const Body& body,
                                        const EndFirst& end_first) {
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    if (base + group >= last) break;
#pragma unroll
    for (int i = 0; i < kPassStages; ++i) {
      const int stage = pass * kPassStages + i;
      if (kOrder == SkinnyOrder::kAny && stage >= stages) break;
      body(group, kBuffer * kPassStages + i, stage * kStageK);
    }
    if (group == 0) end_first(pass, (1 - kBuffer) * kPassStages);
  }
}
template <SkinnyOrder kOrder, typename Body, typename EndFirst>
__device__ __forceinline__ void ForEachStage(int base, int last, int in_features, const Body& body,
                                             const EndFirst& end_first) {
  if constexpr (kOrder == SkinnyOrder::kHeld) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      if (base + group >= last) break;
#pragma unroll
      for (int stage = 0; stage < kBuffers * kPassStages; ++stage) {
        body(group, stage, stage * kStageK);
      }
    }
    return;
  }
  const int stages = (in_features + kStageK - 1) / kStageK;
  const int passes = (stages + kPassStages - 1) / kPassStages;
  for (int pass = 0; pass < passes; pass += kBuffers) {
    OnePass<kOrder, 0>(base, last, stages, pass, body, end_first);
    if (pass + 1 < passes) OnePass<kOrder, 1>(base, last, stages, pass + 1, body, end_first);
  }
}

// c += a b, 16 rows x 8 tokens x 16 k's. Which k is which does not matter as long as a and b agree:
// lane l has of a chunk the k's 8 * (l % 4) to + 7, of the rows l / 4 and l / 4 + 8 (upper, lower)
// and of token l / 4; half of them for each of two instructions.
__device__ __forceinline__ void MultiplyAdd(float (&c)[4], uint32_t upper0, uint32_t lower0,
                                            uint32_t upper1, uint32_t lower1, uint32_t b0,
                                            uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(upper0), "r"(lower0), "r"(upper1), "r"(lower1), "r"(b0), "r"(b1));
}

// One warp: this block's share of one product's weight, from `place` on. Waits for nothing but the
// ring.
template <SkinnyOrder kOrder, int kTokens, int kDepth>
__device__ void FillRing(const SkinnyProblem& problem, SkinnyRing<kTokens, kDepth>& ring,
                         RingPlace<kDepth>& place) {
  const Share share = BlockShare(problem.num_groups);
  const uint64_t policy = EvictFirst();
  for (int base = share.first; base < share.last; base += kGroups) {
    ForEachStage<kOrder>(
        base, share.last, problem.in_features,
        [&](int group, int, int k) {
          Wait(&ring.empty[place.slot], place.parity ^ 1);
          const unsigned bytes = min(kStageK, problem.in_features - k) * 2;
          if (ElectOne()) {
            ArriveExpecting(&ring.full[place.slot], bytes * kGroupRows);
            const Bf16* from = problem.weight +
                               int64_t{base + group} * problem.group_step * problem.in_features + k;
            const int64_t apart = int64_t{problem.lower_apart} * problem.in_features;
            uint8_t* to = ring.stages[place.slot];
#pragma unroll
            for (int row = 0; row < kGroupRows / 2; ++row) {
              BulkLoad(to, from, bytes, &ring.full[place.slot], policy);
              BulkLoad(to + kGroupRows / 2 * kRowBytes, from + apart, bytes, &ring.full[place.slot],
                       policy);
              to += kRowBytes;
              from += problem.in_features;
            }
          }
          place.Next();
        },
        [](int, int) {});
  }
  // The last of this weight is on its way: device memory goes on with the next one's beginning.
  if (problem.next_weight != nullptr && ElectOne()) {
    const Share next = BlockShare(problem.next_groups);
    const int64_t row_bytes = int64_t{2} * problem.next_in_features;
    const auto* from =
        reinterpret_cast<const uint8_t*>(problem.next_weight) + next.first * kGroupRows * row_bytes;
    const int64_t bytes = min(kPrefetchBytes, (next.last - next.first) * kGroupRows * row_bytes);
    for (int64_t at = 0; at < bytes; at += 4096) {
      BulkPrefetch(from + at, static_cast<unsigned>(min(bytes - at, int64_t{4096})));
    }
  }
}

// A warp's x for two passes.
template <int kTokens>
struct Activations {
  uint4 of[kBuffers * kPassStages][kChunks][kTokens / 8];

  // One pass, into the registers from `place` on, a constant.
  __device__ __forceinline__ void Load(const SkinnyProblem& problem, int pass, int place, int warp,
                                       int lane) {
#pragma unroll
    for (int stage = 0; stage < kPassStages; ++stage) {
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        const int k = pass * kPassK + stage * kStageK + (warp * kChunks + chunk) * kChunkK;
#pragma unroll
        for (int half = 0; half < kTokens / 8; ++half) {
          const int token = half * 8 + lane / 4;
          const bool in = token < problem.num_tokens && k < problem.in_features;
          const Bf16* from = problem.x + token * problem.x_stride + k + lane % 4 * 8;
          of[place + stage][chunk][half] =
              in ? __ldcg(reinterpret_cast<const uint4*>(from)) : uint4{};
        }
      }
    }
  }
};

// A thread's outputs of two groups from `base` on: body(i, place in the sums, place in out).
template <int kTokens, typename Body>
__device__ __forceinline__ void ForEachOut(const SkinnyProblem& problem, int base, int last,
                                           const Body& body) {
  constexpr int kLine = kGroups * kGroupRows;
#pragma unroll
  for (int i = 0; i < kTokens * kLine / (kWarps * 32); ++i) {
    const int at = threadIdx.x + i * kWarps * 32;
    const int token = at / kLine;
    const int row = base * kGroupRows + at % kLine;
    if (token >= problem.num_tokens || row >= last * kGroupRows) continue;
    body(i, at, token * problem.out_stride + row);
  }
}

// What is in out, asked for while weights are on their way; zeros where nothing is added to it.
template <int kTokens>
struct Before {
  float of[kTokens * kGroups * kGroupRows / (kWarps * 32)] = {};

  __device__ __forceinline__ void Load(const SkinnyProblem& problem, int base, int last) {
    if (!problem.adds) return;
    ForEachOut<kTokens>(problem, base, last,
                        [&](int i, int, int64_t to) { of[i] = problem.out_f32[to]; });
  }
};

// What becomes of the sums of two groups from `base` on. Those of a gated product are rounded as if
// they had been stored for swiglu to read.
template <int kTokens>
__device__ __forceinline__ void StoreSums(const SkinnyProblem& problem, const float* sums, int base,
                                          int last, const Before<kTokens>& before) {
  constexpr int kLine = kGroups * kGroupRows;
  constexpr int kThreads = kWarps * 32;
  const auto total = [&](int at) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += sums[w * kTokens * kLine + at];
    return sum;
  };
  if (problem.group_step < kGroupRows) {
    constexpr int kHalf = kGroupRows / 2;
    for (int i = threadIdx.x; i < kTokens * kLine / 2; i += kThreads) {
      const int token = i / (kLine / 2);
      const int group = i / kHalf % kGroups;
      const int at = token * kLine + group * kGroupRows + i % kHalf;
      if (token >= problem.num_tokens || base + group >= last) continue;
      const auto gate = ToFloat(__float2bfloat16_rn(total(at)));
      const auto up = ToFloat(__float2bfloat16_rn(total(at + kHalf)));
      problem.out[token * problem.out_stride + (base + group) * kHalf + i % kHalf] =
          __float2bfloat16_rn(Swiglu(gate, up));
    }
    return;
  }
  ForEachOut<kTokens>(problem, base, last, [&](int i, int at, int64_t to) {
    const float sum = total(at);
    if (problem.out_f32 != nullptr) {
      problem.out_f32[to] = problem.adds ? before.of[i] + sum : sum;
    } else {
      problem.out[to] = __float2bfloat16_rn(sum);
    }
  });
}

__device__ __forceinline__ void SyncSkinnyWarps() {
  asm volatile("bar.sync 1, %0;" ::"n"(kWarps * 32) : "memory");
}

// The other warps: this block's share of one product, x from its first element on.
template <SkinnyOrder kOrder, int kTokens, int kDepth>
__device__ void EmptyRing(const SkinnyProblem& problem, SkinnyRing<kTokens, kDepth>& ring,
                          RingPlace<kDepth>& place) {
  const Share share = BlockShare(problem.num_groups);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const bool stays = kOrder == SkinnyOrder::kHeld || problem.in_features <= kBuffers * kPassK;
  Activations<kTokens> x;
  for (int base = share.first; base < share.last; base += kGroups) {
    // Two chains for each group and eight tokens, for the tensor cores' latency.
    float c[kGroups][kTokens / 8][2][4] = {};
    Before<kTokens> before;
    before.Load(problem, base, share.last);
    if (!stays || base == share.first) {
#pragma unroll
      for (int pass = 0; pass < kBuffers; ++pass) {
        x.Load(problem, pass, pass * kPassStages, warp, lane);
      }
    }
    ForEachStage<kOrder>(
        base, share.last, problem.in_features,
        [&](int group, int stage, int first_k) {
          Wait(&ring.full[place.slot], place.parity);
          const uint8_t* row = ring.stages[place.slot] + lane / 4 * kRowBytes;
#pragma unroll
          for (int chunk = 0; chunk < kChunks; ++chunk) {
            const int k = (warp * kChunks + chunk) * kChunkK;
            if (kOrder == SkinnyOrder::kAny && first_k + k >= problem.in_features) break;
            const uint8_t* at = row + (k + lane % 4 * 8) * 2;
            const uint4 upper = *reinterpret_cast<const uint4*>(at);
            const uint4 lower = *reinterpret_cast<const uint4*>(at + 8 * kRowBytes);
#pragma unroll
            for (int half = 0; half < kTokens / 8; ++half) {
              const uint4 b = x.of[stage][chunk][half];
              auto& sum = c[group][half];
              MultiplyAdd(sum[0], upper.x, lower.x, upper.y, lower.y, b.x, b.y);
              MultiplyAdd(sum[1], upper.z, lower.z, upper.w, lower.w, b.z, b.w);
            }
          }
          FenceReadsBeforeBulkWrites();
          Arrive(&ring.empty[place.slot]);  // each lane for its own reads
          place.Next();
        },
        // The next pass's x, while the second group meets this one's: asked for only now that all
        // of this one's is there, since who waits for some loads waits for later ones too.
        [&](int pass, int buffer) {
          if (pass > 0 && (pass + 1) * kPassK < problem.in_features) {
            x.Load(problem, pass + 1, buffer, warp, lane);
          }
        });

    // The warps' slices of k meet, in the order of the warps. sums [warp][token][row]
    constexpr int kLine = kGroups * kGroupRows;
    float* mine = ring.sums + warp * kTokens * kLine;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
      for (int half = 0; half < kTokens / 8; ++half) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // upper row, two tokens; lower row, the same two
          const int token = half * 8 + lane % 4 * 2 + i % 2;
          const int row = group * kGroupRows + lane / 4 + i / 2 * 8;
          mine[token * kLine + row] = c[group][half][0][i] + c[group][half][1][i];
        }
      }
    }
    SyncSkinnyWarps();
    StoreSums<kTokens>(problem, ring.sums, base, share.last, before);
    SyncSkinnyWarps();
  }
}

// CHECKs that the tensors are of the form.
inline SkinnyProblem MakeSkinnyProblem(const Tensor& x, const Tensor& weight, const Tensor& out) {
  PENSTOCK_CHECK(IsSkinny(x, weight, out));
  PENSTOCK_CHECK_EQ(x.dim(1), weight.dim(1));
  PENSTOCK_CHECK_EQ(out.dim(0), x.dim(0));
  const bool is_f32 = out.type() == DataType::kF32;
  SkinnyProblem problem = {};
  problem.x = Elements<const Bf16>(x);
  problem.weight = Elements<const Bf16>(weight);
  problem.out = is_f32 ? nullptr : Elements<Bf16>(out);
  problem.out_f32 = is_f32 ? Elements<float>(out) : nullptr;
  problem.num_tokens = static_cast<int>(x.dim(0));
  problem.in_features = static_cast<int>(x.dim(1));
  problem.x_stride = x.stride(0);
  problem.out_stride = out.stride(0);
  problem.num_groups = static_cast<int>(weight.dim(0) / kGroupRows);
  problem.group_step = kGroupRows;
  problem.lower_apart = kGroupRows / 2;
  return problem;
}

inline SkinnyProblem MakeGatedProblem(const Tensor& x, const Tensor& weight, const Tensor& out) {
  PENSTOCK_CHECK(out.type() == DataType::kBF16);
  PENSTOCK_CHECK_EQ(2 * out.dim(1), weight.dim(0));
  SkinnyProblem problem = MakeSkinnyProblem(x, weight, out);
  problem.group_step = kGroupRows / 2;
  problem.lower_apart = static_cast<int>(out.dim(1));
  return problem;
}

}  // namespace penstock::cuda
