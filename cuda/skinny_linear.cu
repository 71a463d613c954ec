#include <cstdlib>

#include "cuda/skinny_linear.h"
#include "cuda/skinny_ring.cuh"

namespace penstock::cuda {
namespace {

// Made twice. Up to 8 tokens a block leaves registers to the small kernels between two products, so
// that its own beginning, the filled ring, stands beside them. Up to 16 tokens x takes all
// registers; of the loader's warpgroup all is there, to give its own away.
template <int kTokens, int kLoaders, int kDepth>
struct Form {
  static constexpr bool kAlone = kTokens > 8;
  static constexpr int kThreads = (kWarps + (kAlone ? 4 : kLoaders)) * 32;
  static constexpr int kBoundThreads = kAlone ? kThreads : 512;  // 128 registers a thread
  using Ring = SkinnyRing<kTokens, kDepth>;
};

template <int kTokens, int kLoaders, int kDepth, SkinnyOrder kOrder>
__global__ void __launch_bounds__(Form<kTokens, kLoaders, kDepth>::kBoundThreads, 1)
    SkinnyLinearKernel(const __grid_constant__ SkinnyProblem problem) {
  using F = Form<kTokens, kLoaders, kDepth>;
  extern __shared__ __align__(128) uint8_t shared[];
  auto& ring = *reinterpret_cast<typename F::Ring*>(shared);
  RingPlace<F::Ring::kStages> place;
  LetNextBegin();
  if (threadIdx.x == 0) ring.MakeBarriers(kLoaders);
  __syncthreads();
  if (threadIdx.x >= kWarps * 32) {
    if constexpr (F::kAlone) asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    const int loader = static_cast<int>(threadIdx.x) / 32 - kWarps;
    if (loader >= kLoaders) return;
    FillRing<kLoaders>(problem, loader, ring, place);
  } else {
    if constexpr (F::kAlone) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    WaitForInputs();
    EmptyRing<kOrder>(problem, ring, place);
  }
}

template <int kTokens, int kLoaders, int kDepth, SkinnyOrder kOrder>
void LaunchOrder(cudaStream_t stream, const SkinnyProblem& problem) {
  using F = Form<kTokens, kLoaders, kDepth>;
  const auto kernel = SkinnyLinearKernel<kTokens, kLoaders, kDepth, kOrder>;
  AllowShared(kernel, sizeof(typename F::Ring));
  const int blocks = std::min(NumMultiprocessors(), problem.num_groups);
  Launch(stream, {dim3(Blocks(blocks)), dim3(F::kThreads), sizeof(typename F::Ring)}, kernel,
         problem);
}

template <int kTokens, int kLoaders, int kDepth>
void LaunchForm(cudaStream_t stream, const SkinnyProblem& problem) {
  switch (OrderOf(problem.in_features)) {
    case SkinnyOrder::kHeld:
      return LaunchOrder<kTokens, kLoaders, kDepth, SkinnyOrder::kHeld>(stream, problem);
    case SkinnyOrder::kWhole:
      return LaunchOrder<kTokens, kLoaders, kDepth, SkinnyOrder::kWhole>(stream, problem);
    case SkinnyOrder::kAny:
      return LaunchOrder<kTokens, kLoaders, kDepth, SkinnyOrder::kAny>(stream, problem);
  }
}

// To be measured: one loading warp or four, a ring of 12 stages or 10.
void LaunchProblem(cudaStream_t stream, const SkinnyProblem& problem) {
  static const int variant = getenv("SK") != nullptr ? atoi(getenv("SK")) : 0;
  if (problem.num_tokens > 8) {
    return variant < 2 ? LaunchForm<16, 1, 12>(stream, problem)
                       : LaunchForm<16, 4, 12>(stream, problem);
  }
  if (variant == 0) return LaunchForm<8, 1, 12>(stream, problem);
  if (variant == 1) return LaunchForm<8, 1, 10>(stream, problem);
  if (variant == 2) return LaunchForm<8, 4, 12>(stream, problem);
  LaunchForm<8, 4, 10>(stream, problem);
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
                        const Tensor& out, const Tensor& next_weight) {
  PENSTOCK_CHECK_EQ(out.dim(1), weight.dim(0));
  SkinnyProblem problem = MakeSkinnyProblem(x, weight, out);
  if (!next_weight.empty()) {
    problem.next_weight = Elements<const Bf16>(next_weight);
    problem.next_in_features = static_cast<int>(next_weight.dim(1));
    problem.next_groups = static_cast<int>(next_weight.dim(0) / kGroupRows);
  }
  LaunchProblem(stream, problem);
}

void LaunchSkinnyGated(cudaStream_t stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out) {
  LaunchProblem(stream, MakeGatedProblem(x, weight, out));
}

}  // namespace penstock::cuda
