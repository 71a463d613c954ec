#include "cuda/skinny_linear.h"
#include "cuda/skinny_ring.cuh"

namespace penstock::cuda {
namespace {

// Made twice. Up to 8 tokens a block leaves registers to the small kernels between two products, so
// that its own beginning, the filled ring, stands beside them. Up to 16 tokens x takes all
// registers; of the loader's warpgroup all is there, to give its own away.
template <int kTokens>
struct Form {
  static constexpr bool kAlone = kTokens > 8;
  static constexpr int kThreads = (kWarps + (kAlone ? 4 : 1)) * 32;
  static constexpr int kBoundThreads = kAlone ? kThreads : 512;  // 128 registers a thread
  using Ring = SkinnyRing<kTokens, 12>;
};

template <int kTokens, SkinnyOrder kOrder>
__global__ void __launch_bounds__(Form<kTokens>::kBoundThreads, 1)
    SkinnyLinearKernel(const __grid_constant__ SkinnyProblem problem) {
  using F = Form<kTokens>;
  extern __shared__ __align__(128) uint8_t shared[];
  auto& ring = *reinterpret_cast<typename F::Ring*>(shared);
  RingPlace<F::Ring::kStages> place;
  LetNextBegin();
  if (threadIdx.x == 0) ring.MakeBarriers();
  __syncthreads();
  if (threadIdx.x >= kWarps * 32) {
    if constexpr (F::kAlone) asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x / 32 != kWarps) return;
    FillRing<kOrder>(problem, ring, place);
  } else {
    if constexpr (F::kAlone) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    WaitForInputs();
    EmptyRing<kOrder>(problem, ring, place);
  }
}

template <int kTokens, SkinnyOrder kOrder>
void LaunchOrder(cudaStream_t stream, const SkinnyProblem& problem) {
  using F = Form<kTokens>;
  AllowShared(SkinnyLinearKernel<kTokens, kOrder>, sizeof(typename F::Ring));
  const int blocks = std::min(NumMultiprocessors(), problem.num_groups);
  Launch(stream, {dim3(Blocks(blocks)), dim3(F::kThreads), sizeof(typename F::Ring)},
         SkinnyLinearKernel<kTokens, kOrder>, problem);
}

template <int kTokens>
void LaunchForm(cudaStream_t stream, const SkinnyProblem& problem) {
  switch (OrderOf(problem.in_features)) {
    case SkinnyOrder::kHeld:
      return LaunchOrder<kTokens, SkinnyOrder::kHeld>(stream, problem);
    case SkinnyOrder::kWhole:
      return LaunchOrder<kTokens, SkinnyOrder::kWhole>(stream, problem);
    case SkinnyOrder::kAny:
      return LaunchOrder<kTokens, SkinnyOrder::kAny>(stream, problem);
  }
}

void LaunchProblem(cudaStream_t stream, const SkinnyProblem& problem) {
  if (problem.num_tokens <= 8) return LaunchForm<8>(stream, problem);
  LaunchForm<16>(stream, problem);
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
  PENSTOCK_CHECK_EQ(out.dim(1), weight.dim(0));
  SkinnyProblem problem = MakeSkinnyProblem(x, weight, out);
  PENSTOCK_CHECK(!adds || problem.out_f32 != nullptr);
  problem.adds = adds;
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
