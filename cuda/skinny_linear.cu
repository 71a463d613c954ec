#include "cuda/bulk_copy.cuh"
#include "cuda/launch.h"
#include "cuda/skinny_linear.h"

namespace penstock::cuda {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kGroupRows = 16;  // of the weight: the m of one tensor core instruction
constexpr int kGroups = 2;      // whose sums a warp holds at once
constexpr int kStageK = 512;    // of a group's rows: 16 KiB, rows of 1 KiB
constexpr int kStagesOfX = 8;   // a warp's registers hold x for so many stages: 4096 k's
constexpr int kPassK = kStageK * kStagesOfX;
constexpr int kChunkK = 32;  // a lane's 16 bytes of each row, twice the k of one instruction
// Rows lie half a bank cycle apart, so that the eight lanes that are served together, four in each
// of two rows, meet all banks once.
constexpr int kRowBytes = kStageK * 2 + 64;
constexpr int kStageBytes = kRowBytes * kGroupRows;
constexpr int kStages = 12;
constexpr int64_t kPrefetchBytes = 16 << 10;  // of the next weight, a block
constexpr int kRingBytes = kStages * kStageBytes;
// Two warpgroups compute. Of a third one warp loads; all of it is there to give its registers away.
constexpr int kWarps = 8;
constexpr int kBlockThreads = (kWarps + 4) * 32;
constexpr int kChunks = kStageK / kWarps / kChunkK;  // a warp's of a stage

// Made twice: for up to 8 tokens, and up to 16.
template <int kTokens>
struct Form {
  static constexpr int kSums = kWarps * kGroups * kTokens * kGroupRows;
  static constexpr int kSharedBytes = kRingBytes + kSums * 4 + 2 * kStages * 8;
};

struct SkinnyProblem {
  const Bf16* x;
  const Bf16* weight;
  void* out;
  bool out_is_f32;
  bool adds;  // to out
  int num_tokens;
  int in_features;
  int64_t x_stride;
  int64_t out_stride;
  int num_groups;           // of rows of the weight
  const Bf16* next_weight;  // or nullptr
  int next_in_features;
  int next_groups;

  __device__ __forceinline__ float Load(int64_t at) const {
    return out_is_f32 ? static_cast<const float*>(out)[at]
                      : __bfloat162float(static_cast<const Bf16*>(out)[at]);
  }
  __device__ __forceinline__ void Store(int64_t at, float value) const {
    if (out_is_f32) {
      static_cast<float*>(out)[at] = value;
    } else {
      static_cast<Bf16*>(out)[at] = __float2bfloat16_rn(value);
    }
  }
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

// The order in which stages pass through the ring, the same for who fills and who empties it: two
// groups at a time; of them, 4096 k's at a time; group by group; stage by stage.
// body(group - base, stage in the pass, its first k)
template <bool kWhole, typename Begin, typename Body>
__device__ __forceinline__ void ForEachStage(int base, int last, int in_features,
                                             const Begin& begin_pass, const Body& body) {
  const int stages = (in_features + kStageK - 1) / kStageK;
  for (int pass = 0; pass < stages; pass += kStagesOfX) {
    begin_pass(pass * kStageK);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      if (base + group >= last) break;
#pragma unroll
      for (int stage = 0; stage < kStagesOfX; ++stage) {
        if (!kWhole && pass + stage >= stages) break;
        body(group, stage, (pass + stage) * kStageK);
      }
    }
  }
}

struct RingPlace {
  int slot = 0;
  unsigned parity = 0;

  __device__ __forceinline__ void Next() {
    if (++slot == kStages) {
      slot = 0;
      parity ^= 1;
    }
  }
};

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

template <int kTokens, bool kWhole>
__device__ void FillRing(const SkinnyProblem& problem, uint8_t* ring, uint64_t* full,
                         uint64_t* empty) {
  using F = Form<kTokens>;
  const Share share = BlockShare(problem.num_groups);
  const uint64_t policy = EvictFirst();
  RingPlace place;
  for (int base = share.first; base < share.last; base += kGroups) {
    ForEachStage<kWhole>(
        base, share.last, problem.in_features, [](int) {},
        [&](int group, int, int k) {
          Wait(&empty[place.slot], place.parity ^ 1);
          const unsigned bytes = min(kStageK, problem.in_features - k) * 2;
          if (ElectOne()) {
            ArriveExpecting(&full[place.slot], bytes * kGroupRows);
            const Bf16* from =
                problem.weight + int64_t{base + group} * kGroupRows * problem.in_features + k;
            uint8_t* to = ring + place.slot * kStageBytes;
#pragma unroll
            for (int row = 0; row < kGroupRows; ++row) {
              BulkLoad(to, from, bytes, &full[place.slot], policy);
              to += kRowBytes;
              from += problem.in_features;
            }
          }
          place.Next();
        });
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

// A warp's x for 4096 k's.
template <int kTokens>
struct Activations {
  uint4 of[kStagesOfX][kChunks][kTokens / 8];

  __device__ __forceinline__ void Load(const SkinnyProblem& problem, int first_k, int warp,
                                       int lane) {
#pragma unroll
    for (int stage = 0; stage < kStagesOfX; ++stage) {
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        const int k = first_k + stage * kStageK + (warp * kChunks + chunk) * kChunkK;
#pragma unroll
        for (int half = 0; half < kTokens / 8; ++half) {
          const int token = half * 8 + lane / 4;
          const bool in = token < problem.num_tokens && k < problem.in_features;
          const Bf16* from = problem.x + token * problem.x_stride + k + lane % 4 * 8;
          of[stage][chunk][half] = in ? __ldcg(reinterpret_cast<const uint4*>(from)) : uint4{};
        }
      }
    }
  }
};

template <int kTokens, bool kWhole>
__device__ void EmptyRing(const SkinnyProblem& problem, const uint8_t* ring, float* sums,
                          uint64_t* full, uint64_t* empty) {
  using F = Form<kTokens>;
  const Share share = BlockShare(problem.num_groups);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const bool one_pass = problem.in_features <= kPassK;
  Activations<kTokens> x;
  WaitForInputs();
  if (one_pass) x.Load(problem, 0, warp, lane);
  RingPlace place;
  for (int base = share.first; base < share.last; base += kGroups) {
    constexpr int kLine = kGroups * kGroupRows;
    constexpr int kOuts = kTokens * kLine / (kWarps * 32);  // of a thread
    static_assert(kOuts * kWarps * 32 == kTokens * kLine);
    float before[kOuts] = {};  // in out; asked for while weights are on their way
    const auto for_each_out = [&](const auto& body) {
#pragma unroll
      for (int i = 0; i < kOuts; ++i) {
        const int at = threadIdx.x + i * kWarps * 32;
        const int token = at / kLine;
        const int row = base * kGroupRows + at % kLine;
        if (token < problem.num_tokens && row < share.last * kGroupRows) {
          body(i, at, token * problem.out_stride + row);
        }
      }
    };
    if (problem.adds) {
      for_each_out([&](int i, int, int64_t place) { before[i] = problem.Load(place); });
    }
    // Two chains for each group and eight tokens, for the tensor cores' latency.
    float c[kGroups][kTokens / 8][2][4] = {};
    ForEachStage<kWhole>(
        base, share.last, problem.in_features,
        [&](int k) {
          if (!one_pass) x.Load(problem, k, warp, lane);
        },
        [&](int group, int stage, int first_k) {
          Wait(&full[place.slot], place.parity);
          const uint8_t* row = ring + place.slot * kStageBytes + lane / 4 * kRowBytes;
#pragma unroll
          for (int chunk = 0; chunk < kChunks; ++chunk) {
            const int k = (warp * kChunks + chunk) * kChunkK;
            if (!kWhole && first_k + k >= problem.in_features) break;
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
          Arrive(&empty[place.slot]);  // each lane for its own reads
          place.Next();
        });

    // The warps' slices of k meet, in the order of the warps. sums [warp][token][row]
    const auto all_warps = [] { asm volatile("bar.sync 1, %0;" ::"n"(kWarps * 32) : "memory"); };
    float* mine = sums + warp * kTokens * kLine;
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
    all_warps();
    for_each_out([&](int i, int at, int64_t place) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += sums[w * kTokens * kLine + at];
      problem.Store(place, problem.adds ? sum + before[i] : sum);
    });
    all_warps();
  }
}

template <int kTokens, bool kWhole>
__global__ void __launch_bounds__(kBlockThreads, 1)
    SkinnyLinearKernel(const __grid_constant__ SkinnyProblem problem) {
  using F = Form<kTokens>;
  extern __shared__ __align__(128) uint8_t shared[];
  float* sums = reinterpret_cast<float*>(shared + kRingBytes);
  auto* full = reinterpret_cast<uint64_t*>(sums + F::kSums);
  uint64_t* empty = full + kStages;
  LetNextBegin();
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < kStages; ++slot) {
      MakeBarrier(&full[slot], 1);
      MakeBarrier(&empty[slot], kWarps * 32);
    }
    FenceBarriers();
  }
  __syncthreads();
  if (threadIdx.x >= kWarps * 32) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x / 32 != kWarps) return;
    FillRing<kTokens, kWhole>(problem, shared, full, empty);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    EmptyRing<kTokens, kWhole>(problem, shared, sums, full, empty);
  }
}

template <int kTokens, bool kWhole>
void LaunchForm(cudaStream_t stream, const SkinnyProblem& problem) {
  using F = Form<kTokens>;
  AllowShared(SkinnyLinearKernel<kTokens, kWhole>, F::kSharedBytes);
  const int blocks = std::min(NumMultiprocessors(), problem.num_groups);
  Launch(stream, {dim3(Blocks(blocks)), dim3(kBlockThreads), F::kSharedBytes},
         SkinnyLinearKernel<kTokens, kWhole>, problem);
}

}  // namespace

bool IsSkinny(const Tensor& x, const Tensor& weight, const Tensor& out) {
  const int64_t features = weight.dim(1);
  return x.type() == DataType::kBF16 && weight.type() == DataType::kBF16 &&
         (out.type() == DataType::kBF16 || out.type() == DataType::kF32) &&
         x.dim(0) <= kSkinnyTokens && features % kChunkK == 0 && features <= INT32_MAX / 2 &&
         weight.dim(0) % kGroupRows == 0 && weight.dim(0) <= INT32_MAX / 2 &&
         weight.is_contiguous() && IsWide(x, features) && IsWide(weight, features);
}

void LaunchSkinnyLinear(cudaStream_t stream, const Tensor& x, const Tensor& weight,
                        const Tensor& out, bool adds, const Tensor& next_weight) {
  PENSTOCK_CHECK(IsSkinny(x, weight, out));
  PENSTOCK_CHECK_EQ(x.dim(1), weight.dim(1));
  PENSTOCK_CHECK_EQ(out.dim(0), x.dim(0));
  PENSTOCK_CHECK_EQ(out.dim(1), weight.dim(0));
  const bool has_next = !next_weight.empty();
  const SkinnyProblem problem = {Elements<const Bf16>(x),
                                 Elements<const Bf16>(weight),
                                 const_cast<void*>(out.raw()),
                                 out.type() == DataType::kF32,
                                 adds,
                                 static_cast<int>(x.dim(0)),
                                 static_cast<int>(x.dim(1)),
                                 x.stride(0),
                                 out.stride(0),
                                 static_cast<int>(weight.dim(0) / kGroupRows),
                                 has_next ? Elements<const Bf16>(next_weight) : nullptr,
                                 has_next ? static_cast<int>(next_weight.dim(1)) : 0,
                                 has_next ? static_cast<int>(next_weight.dim(0) / kGroupRows) : 0};
  const bool whole = problem.in_features % kPassK == 0;
  if (problem.num_tokens <= 8) {
    whole ? LaunchForm<8, true>(stream, problem) : LaunchForm<8, false>(stream, problem);
  } else {
    whole ? LaunchForm<16, true>(stream, problem) : LaunchForm<16, false>(stream, problem);
  }
}

}  // namespace penstock::cuda
