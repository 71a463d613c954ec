#include "cuda/bulk_copy.cuh"
#include "cuda/launch.h"
#include "cuda/skinny_chain.h"
#include "cuda/tensor_core.cuh"

namespace penstock::cuda {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kTokens = 8;      // the n of one tensor core instruction
constexpr int kGroupRows = 16;  // of the weight: its m
constexpr int kStageK = 512;    // of a group's rows
// Rows lie 16 bytes apart in the banks, so that the eight rows that ldmatrix reads meet all of
// them.
constexpr int kRowBytes = kStageK * 2 + 16;
constexpr int kStageBytes = kRowBytes * kGroupRows;
constexpr int kMostStages = 13;
constexpr int kWarps = 8;
constexpr int kConsumers = kWarps * 32;
constexpr int kBarrierBytes = 2 * kMostStages * 8;
constexpr int kSharedBytes = 227 << 10;
constexpr int kMostXBytes = 66 << 10;  // 8 tokens of 4096

template <typename Out>
struct ChainProblem {
  const Bf16* x;
  const Bf16* weight;
  Out* out;
  int num_tokens;
  int in_features;
  int64_t x_stride;
  int64_t out_stride;
  int num_groups;  // of rows of the weight
  int x_line;      // bytes of a token's x in shared memory
  int stages;      // of the ring
  bool adds;       // to out
};

// The ring's stages in their order: rounds of groups, up to a warp each, whose stages take turns.
// No round has more groups than one before it: a warp that sits a round out has no work in a later
// one either. If it had, it would stand at a stage two fillings ahead of the ring, where a
// barrier's parity is the same as at the one that is there.
struct Rounds {
  int first;  // of the block's groups
  int count;
  int rounds;

  __device__ Rounds(int num_groups) {
    first = static_cast<int>(int64_t{num_groups} * blockIdx.x / gridDim.x);
    count = static_cast<int>(int64_t{num_groups} * (blockIdx.x + 1) / gridDim.x) - first;
    // Of 4 to 7 groups: fewer warps would wait for their chains, not for weights.
    rounds = max(count / 4, 1);
  }
  __device__ __forceinline__ int Begin(int round) const {
    return first + round * (count / rounds) + min(round, count % rounds);
  }
};

struct ChainPlace {
  int slot = 0;
  unsigned parity = 0;

  // REQUIRES: by <= stages.
  __device__ __forceinline__ void Next(int by, int stages) {
    slot += by;
    if (slot >= stages) {
      slot -= stages;
      parity ^= 1;
    }
  }
};

template <typename Out>
__device__ void FillRing(const ChainProblem<Out>& problem, uint8_t* ring, uint64_t* full,
                         uint64_t* empty) {
  const Rounds rounds(problem.num_groups);
  const uint64_t policy = EvictFirst();
  ChainPlace place;
  for (int round = 0; round < rounds.rounds; ++round) {
    for (int k = 0; k < problem.in_features; k += kStageK) {
      const unsigned bytes = min(kStageK, problem.in_features - k) * 2;
      for (int group = rounds.Begin(round); group < rounds.Begin(round + 1); ++group) {
        Wait(&empty[place.slot], place.parity ^ 1);
        if (ElectOne()) {
          ArriveExpecting(&full[place.slot], bytes * kGroupRows);
          const Bf16* from = problem.weight + int64_t{group} * kGroupRows * problem.in_features + k;
          uint8_t* to = ring + place.slot * kStageBytes;
#pragma unroll
          for (int row = 0; row < kGroupRows; ++row) {
            BulkLoad(to, from, bytes, &full[place.slot], policy);
            to += kRowBytes;
            from += problem.in_features;
          }
        }
        place.Next(1, problem.stages);
      }
    }
  }
}

// x [num_tokens, in_features] into shared memory.
template <typename Out>
__device__ void LoadX(const ChainProblem<Out>& problem, uint8_t* x) {
  const int units = problem.in_features / 8;
  for (int token = 0; token < problem.num_tokens; ++token) {
    const auto* from = reinterpret_cast<const uint4*>(problem.x + token * problem.x_stride);
    auto* to = reinterpret_cast<uint4*>(x + token * problem.x_line);
#pragma unroll 4
    for (int i = threadIdx.x; i < units; i += kConsumers) to[i] = __ldcg(from + i);
  }
  asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
}

// Steps of 16 k's, their products a chain. `weights` and `x` are this lane's addresses for
// ldmatrix.
template <int kSteps>
__device__ __forceinline__ void Chain(float (&c)[4], uint32_t weights, uint32_t x) {
  static_assert(kSteps % 2 == 0);
#pragma unroll
  for (int step = 0; step < kSteps; step += 2) {
    uint32_t b[4];
    uint32_t first[4];
    uint32_t second[4];
    LoadMatrices(b, x + step * 32);
    LoadMatrices(first, weights + step * 32);
    LoadMatrices(second, weights + step * 32 + 32);
    MultiplyAdd<Bf16>(c, first, b[0], b[1]);
    MultiplyAdd<Bf16>(c, second, b[2], b[3]);
  }
}

template <typename Out>
__device__ void EmptyRing(const ChainProblem<Out>& problem, const uint8_t* ring, uint8_t* x,
                          uint64_t* full, uint64_t* empty) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const Rounds rounds(problem.num_groups);
  WaitForInputs();
  LoadX(problem, x);
  // Lanes of eight: of the weight eight rows, the next eight rows, and both eight k's on; of x 8,
  // 16 and 24 k's on. Columns of tokens that are none hold anything: nobody reads their sums.
  const uint32_t of_weights =
      SharedAddress(ring) + (lane / 8 % 2 * 8 + lane % 8) * kRowBytes + lane / 16 * 16;
  const uint32_t of_x =
      SharedAddress(x) + min(lane % 8, problem.num_tokens - 1) * problem.x_line + lane / 8 * 16;
  ChainPlace place;
  for (int round = 0; round < rounds.rounds; ++round) {
    const int begin = rounds.Begin(round);
    const int groups = rounds.Begin(round + 1) - begin;
    float c[4] = {};
    ChainPlace mine = place;
    mine.Next(warp < groups ? warp : 0, problem.stages);
    for (int k = 0; k < problem.in_features; k += kStageK) {
      if (warp < groups) {
        // Copies do not come in their order: the slot's last stage, another warp's, may not be
        // there yet, where its barrier's parity is the same as at the end of this one.
        Wait(&empty[mine.slot], mine.parity ^ 1);
        Wait(&full[mine.slot], mine.parity);
        const uint32_t weights = of_weights + mine.slot * kStageBytes;
        const int steps = min(kStageK, problem.in_features - k) / 16;
        if (steps == kStageK / 16) {
          Chain<kStageK / 16>(c, weights, of_x + k * 2);
        } else {
          for (int step = 0; step < steps; step += 2) {
            Chain<2>(c, weights + step * 32, of_x + k * 2 + step * 32);
          }
        }
        FenceReadsBeforeBulkWrites();
        Arrive(&empty[mine.slot]);  // each lane for its own reads
        mine.Next(groups, problem.stages);
      }
      place.Next(groups, problem.stages);
    }
    if (warp >= groups) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // upper row, two tokens; lower row, the same two
      const int token = lane % 4 * 2 + i % 2;
      const int row = (begin + warp) * kGroupRows + lane / 4 + i / 2 * 8;
      if (token < problem.num_tokens) {
        Out* at = problem.out + token * problem.out_stride + row;
        *at = FromFloat<Out>(problem.adds ? c[i] + ToFloat(*at) : c[i]);
      }
    }
  }
}

template <typename Out>
__global__ void __launch_bounds__(kConsumers + 32, 1)
    SkinnyChainKernel(const __grid_constant__ ChainProblem<Out> problem) {
  extern __shared__ __align__(128) uint8_t shared[];
  auto* full = reinterpret_cast<uint64_t*>(shared);
  uint64_t* empty = full + kMostStages;
  uint8_t* ring = shared + kBarrierBytes;
  uint8_t* x = ring + problem.stages * kStageBytes;
  LetNextBegin();
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < problem.stages; ++slot) {
      MakeBarrier(&full[slot], 1);
      MakeBarrier(&empty[slot], 32);
    }
    FenceBarriers();
  }
  __syncthreads();
  if (threadIdx.x >= kConsumers) {
    FillRing(problem, ring, full, empty);
  } else {
    EmptyRing(problem, ring, x, full, empty);
  }
}
static_assert(kBarrierBytes % 16 == 0);

int64_t XLine(int64_t in_features) { return in_features * 2 + 16; }

template <typename Out>
void LaunchOf(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
              bool adds) {
  const int64_t x_bytes = x.dim(0) * XLine(x.dim(1));
  const ChainProblem<Out> problem = {
      Elements<const Bf16>(x),
      Elements<const Bf16>(weight),
      Elements<Out>(out),
      static_cast<int>(x.dim(0)),
      static_cast<int>(x.dim(1)),
      x.stride(0),
      out.stride(0),
      static_cast<int>(weight.dim(0) / kGroupRows),
      static_cast<int>(XLine(x.dim(1))),
      static_cast<int>(
          std::min<int64_t>((kSharedBytes - kBarrierBytes - x_bytes) / kStageBytes, kMostStages)),
      adds};
  AllowShared(SkinnyChainKernel<Out>, kSharedBytes);
  const int blocks = std::min(NumMultiprocessors(), problem.num_groups);
  Launch(stream, {dim3(Blocks(blocks)), dim3(kConsumers + 32), kSharedBytes},
         SkinnyChainKernel<Out>, problem);
}

}  // namespace

bool IsSkinnyChain(const Tensor& x, const Tensor& weight, const Tensor& out) {
  const int64_t features = weight.dim(1);
  return x.type() == DataType::kBF16 && weight.type() == DataType::kBF16 &&
         (out.type() == DataType::kBF16 || out.type() == DataType::kF32) && x.dim(0) <= kTokens &&
         features % 32 == 0 && x.dim(0) * XLine(features) <= kMostXBytes &&
         weight.dim(0) % kGroupRows == 0 && weight.dim(0) <= INT32_MAX / 2 &&
         weight.is_contiguous() && IsWide(x, features) && IsWide(weight, features);
}

void LaunchSkinnyChain(cudaStream_t stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out, bool adds) {
  PENSTOCK_CHECK(IsSkinnyChain(x, weight, out));
  PENSTOCK_CHECK_EQ(x.dim(1), weight.dim(1));
  PENSTOCK_CHECK_EQ(out.dim(0), x.dim(0));
  PENSTOCK_CHECK_EQ(out.dim(1), weight.dim(0));
  if (out.type() == DataType::kF32) return LaunchOf<float>(stream, x, weight, out, adds);
  LaunchOf<Bf16>(stream, x, weight, out, adds);
}

}  // namespace penstock::cuda
