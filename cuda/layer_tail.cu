#include <cstdlib>

#include "cuda/layer_tail.h"
#include "cuda/skinny_ring.cuh"

namespace penstock::cuda {
namespace {

constexpr int kTokens = static_cast<int>(kTailTokens);
// Two warpgroups compute. Of a third one warp loads; all of it is there to give registers away.
constexpr int kTailThreads = (kWarps + 4) * 32;
constexpr int kWorkers = kWarps * 32;
static_assert(kWorkers == kThreads);  // the norms share a row out as fused_residual_norm does
using Ring = SkinnyRing<kTokens, 12>;

constexpr int kNormWidth = kWide<Bf16>;
constexpr int kHeldPacks = 4;  // of a row, a thread
constexpr int64_t kMaxHidden = int64_t{kHeldPacks} * kNormWidth * kWorkers;

// Of blocks that have stored their share of a product, and of rows that are normalised. They count
// on for ever: a launch adds as many products' times the blocks, and norms' times the tokens.
struct TailCounters {
  unsigned long long products;
  alignas(128) unsigned long long norms;
};
static_assert(sizeof(TailCounters) <= kTailCounterBytes);

struct TailProblem {
  SkinnyProblem products[4];  // output, gate and up, down, the next layer's qkv
  int num_products;
  float* residual;
  int64_t residual_stride;
  const Bf16* delta;
  int64_t delta_stride;
  Bf16* norm;
  int64_t norm_stride;
  const Bf16* gains[2];  // behind output, behind down
  int hidden;
  float eps;
  TailCounters* counters;
};

// Counts one up; what the block's workers wrote before they last met is then visible to whoever
// sees it.
__device__ __forceinline__ unsigned long long CountUp(unsigned long long* counter) {
  unsigned long long before;
  asm volatile("atom.release.gpu.global.add.u64 %0, [%1], 1;"
               : "=l"(before)
               : "l"(counter)
               : "memory");
  return before;
}
__device__ __forceinline__ unsigned long long Count(const unsigned long long* counter) {
  unsigned long long count;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(count) : "l"(counter) : "memory");
  return count;
}
// All workers take part; `target` counts in the first.
__device__ __forceinline__ void WaitForCount(const unsigned long long* counter,
                                             unsigned long long target) {
  if (threadIdx.x == 0) {
    while (Count(counter) < target) {
    }
  }
  SyncSkinnyWarps();
}

// One row, as HeldResidualNormKernel has it (fused_residual_norm.cu): the same packs a thread, the
// same order of sums. `wait` stands before what other blocks wrote is read. A function of its own,
// so that it takes no registers from the products.
template <typename Wait>
__device__ __noinline__ void NormRow(const TailProblem& problem, int row, const Bf16* gain,
                                     float* of_warp, const Wait& wait) {
  constexpr int N = kNormWidth;
  const int packs = problem.hidden / N;
  const auto has = [&](int pack) {
    return static_cast<int>(threadIdx.x) + pack * kWorkers < packs;
  };
  Pack<Bf16, N> gains[kHeldPacks];
#pragma unroll
  for (int p = 0; p < kHeldPacks; ++p) {
    if (has(p)) gains[p] = reinterpret_cast<const Pack<Bf16, N>*>(gain)[threadIdx.x + p * kWorkers];
  }
  wait();
  float* sums = problem.residual + row * problem.residual_stride + threadIdx.x * N;
  const Bf16* in = problem.delta + row * problem.delta_stride + threadIdx.x * N;
  float sum[kHeldPacks][N];
  Pack<Bf16, N> added[kHeldPacks];
#pragma unroll
  for (int p = 0; p < kHeldPacks; ++p) {
    if (!has(p)) continue;
#pragma unroll
    for (int j = 0; j < N; j += 4) {
      const float4 four = __ldcg(reinterpret_cast<const float4*>(sums + p * kWorkers * N + j));
      sum[p][j] = four.x;
      sum[p][j + 1] = four.y;
      sum[p][j + 2] = four.z;
      sum[p][j + 3] = four.w;
    }
    *reinterpret_cast<uint4*>(&added[p]) =
        __ldcg(reinterpret_cast<const uint4*>(in + p * kWorkers * N));
  }
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kHeldPacks; ++p) {
    if (!has(p)) continue;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      sum[p][j] += ToFloat(added[p].at[j]);
      squares += sum[p][j] * sum[p][j];
    }
  }
  const int lane = threadIdx.x % 32;
  squares = WarpReduce(squares, Sum());
  if (lane == 0) of_warp[threadIdx.x / 32] = squares;
  SyncSkinnyWarps();
  const float total = WarpReduce(lane < kWarps ? of_warp[lane] : 0.0f, Sum());
  const float scale = 1.0f / sqrtf(total / static_cast<float>(problem.hidden) + problem.eps);
  Bf16* out = problem.norm + row * problem.norm_stride + threadIdx.x * N;
#pragma unroll
  for (int p = 0; p < kHeldPacks; ++p) {
    if (!has(p)) continue;
    Pack<Bf16, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      result.at[j] = FromFloat<Bf16>(sum[p][j] * scale * ToFloat(gains[p].at[j]));
    }
    *reinterpret_cast<Pack<Bf16, N>*>(out + p * kWorkers * N) = result;
#pragma unroll
    for (int j = 0; j < N; j += 4) {
      *reinterpret_cast<float4*>(sums + p * kWorkers * N + j) = {sum[p][j], sum[p][j + 1],
                                                                 sum[p][j + 2], sum[p][j + 3]};
    }
  }
  SyncSkinnyWarps();
}

// Held or any: each order that is compiled costs the kernel some 10 KB of instructions.
template <typename Body>
__device__ __forceinline__ void InOrder(const SkinnyProblem& problem, const Body& body) {
  if (OrderOf(problem.in_features) == SkinnyOrder::kHeld) {
    body(std::integral_constant<SkinnyOrder, SkinnyOrder::kHeld>());
  } else {
    body(std::integral_constant<SkinnyOrder, SkinnyOrder::kAny>());
  }
}

__device__ void Work(const TailProblem& problem, Ring& ring) {
  TailCounters& counters = *problem.counters;
  const int num_tokens = problem.products[0].num_tokens;
  RingPlace<Ring::kStages> place;
  unsigned long long all_stored = 0;
  WaitForInputs();
  // Nobody counts a norm before all blocks have counted their first product.
  unsigned long long all_normed = threadIdx.x == 0 ? Count(&counters.norms) : 0;
  for (int i = 0; i < problem.num_products; ++i) {
    InOrder(problem.products[i], [&](auto order) {
      EmptyRing<decltype(order)::value>(problem.products[i], ring, place);
    });
    if (i == 3) break;
    // EmptyRing ends with the workers in step.
    if (threadIdx.x == 0) {
      all_stored = (CountUp(&counters.products) / gridDim.x + 1) * gridDim.x;
    }
    if (i == 1) {
      WaitForCount(&counters.products, all_stored);
      continue;
    }
    all_normed += num_tokens;
    if (blockIdx.x < num_tokens) {
      NormRow(problem, static_cast<int>(blockIdx.x), problem.gains[i / 2], ring.sums,
              [&] { WaitForCount(&counters.products, all_stored); });
      if (threadIdx.x == 0) CountUp(&counters.norms);
    }
    if (i + 1 < problem.num_products) WaitForCount(&counters.norms, all_normed);
  }
}

template <int kLoaders>
__global__ void __launch_bounds__(kTailThreads, 1)
    LayerTailKernel(const __grid_constant__ TailProblem problem) {
  extern __shared__ __align__(128) uint8_t shared[];
  auto& ring = *reinterpret_cast<Ring*>(shared);
  LetNextBegin();
  if (threadIdx.x == 0) ring.MakeBarriers(kLoaders);
  __syncthreads();
  if (threadIdx.x >= kWorkers) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    const int loader = static_cast<int>(threadIdx.x) / 32 - kWarps;
    if (loader >= kLoaders) return;
    RingPlace<Ring::kStages> place;
#pragma unroll 1
    for (int i = 0; i < problem.num_products; ++i) {
      FillRing<kLoaders>(problem.products[i], loader, ring, place);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    Work(problem, ring);
  }
}

}  // namespace

bool HasLayerTail(const LayerTailArgs& args) {
  const int64_t hidden = args.norm.dim(1);
  return args.mixed.dim(0) <= kTailTokens && args.mixed.dim(0) <= NumMultiprocessors() &&
         args.residual.type() == DataType::kF32 && args.delta.type() == DataType::kBF16 &&
         hidden <= kMaxHidden && hidden % kNormWidth == 0 && IsWide(args.residual, hidden) &&
         IsWide(args.delta, hidden) && IsWide(args.norm, hidden) &&
         IsWide(args.post_gain, hidden) && IsWide(args.next_gain, hidden) &&
         IsSkinny(args.mixed, args.output_weight, args.delta) &&
         IsSkinny(args.norm, args.gate_up_weight, args.gated) &&
         IsSkinny(args.gated, args.down_weight, args.delta) &&
         (args.next_qkv.empty() || IsSkinny(args.norm, args.next_qkv, args.qkv));
}

void LaunchLayerTail(cudaStream_t stream, const LayerTailArgs& args, const Tensor& counters) {
  PENSTOCK_CHECK(HasLayerTail(args));
  PENSTOCK_CHECK_EQ(counters.bytes(), kTailCounterBytes);
  TailProblem problem = {};
  problem.products[0] = MakeSkinnyProblem(args.mixed, args.output_weight, args.delta);
  problem.products[1] = MakeGatedProblem(args.norm, args.gate_up_weight, args.gated);
  problem.products[2] = MakeSkinnyProblem(args.gated, args.down_weight, args.delta);
  problem.num_products = 3;
  if (!args.next_qkv.empty()) {
    problem.products[3] = MakeSkinnyProblem(args.norm, args.next_qkv, args.qkv);
    problem.num_products = 4;
  }
  problem.residual = Elements<float>(args.residual);
  problem.residual_stride = args.residual.stride(0);
  problem.delta = Elements<const Bf16>(args.delta);
  problem.delta_stride = args.delta.stride(0);
  problem.norm = Elements<Bf16>(args.norm);
  problem.norm_stride = args.norm.stride(0);
  problem.gains[0] = Elements<const Bf16>(args.post_gain);
  problem.gains[1] = Elements<const Bf16>(args.next_gain);
  problem.hidden = static_cast<int>(args.norm.dim(1));
  problem.eps = args.eps;
  problem.counters = reinterpret_cast<TailCounters*>(Elements<uint8_t>(counters));
  for (const Tensor* gain : {&args.post_gain, &args.next_gain}) {
    PENSTOCK_CHECK_EQ(gain->dim(0), args.norm.dim(1));
  }
  PENSTOCK_CHECK(args.residual.shape() == args.norm.shape());
  PENSTOCK_CHECK(args.delta.shape() == args.norm.shape());

  static const int variant = getenv("SK") != nullptr ? atoi(getenv("SK")) : 0;
  const auto kernel = variant >= 2 ? LayerTailKernel<4> : LayerTailKernel<1>;
  AllowShared(kernel, sizeof(Ring));
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeCooperative;
  attributes[1].val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(Blocks(NumMultiprocessors()));
  config.blockDim = dim3(kTailThreads);
  config.dynamicSmemBytes = sizeof(Ring);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, problem));
}

}  // namespace penstock::cuda
