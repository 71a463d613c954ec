#include "cuda/add_norm.h"
#include "cuda/batch_linear.h"
#include "cuda/blas.h"
#include "cuda/gated_linear.h"
#include "cuda/kernels/fused_launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

// A product that is halved, and both halves added by the norm behind it: as cuBLASLt would, whose
// split of k adds them in a kernel of its own (tests/bench/results/2026-12-01_deferred_norms.md).
constexpr int64_t kLeastHalved = 129;  // tokens
constexpr int64_t kMostHalved = 256;
constexpr int64_t kHalvedMultiple = 128;  // of k's

bool TakesBatch(SumOrder order, const AddNormArgs& add, const Tensor& out) {
  return order == SumOrder::kFastest && IsBatch(add.x, add.weight) &&
         add.gain.type() == DataType::kBF16 && add.norm.type() == DataType::kBF16 &&
         add.norm.is_contiguous() && IsWide(add.residual, add.residual.dim(1)) &&
         IsWide(add.norm, add.norm.dim(1)) && IsWide(out, out.dim(1));
}

// residual and norm, the norm's last step not done.
DeferredNorm AddAndNorm(cudaStream_t stream, const AddNormArgs& add, const Tensor& workspace) {
  const int64_t features = add.weight.dim(0);
  const int64_t tokens = add.x.dim(0);
  const int64_t parts = ChooseBatchPlan(features).Parts(features);
  const Tensor squares = workspace.Slice(0, tokens * parts).Reshape({tokens, parts});
  LaunchBatchAddAndNorm(stream, add.x, add.weight, add.residual, add.gain, add.norm, squares);
  return {squares, features, add.eps};
}

}  // namespace

int64_t AddNormWorkspace() {
  return kBatchTokens * MaxBatchParts() * static_cast<int64_t>(sizeof(float));
}

bool LaunchAddNorm(Blas& blas, cudaStream_t stream, const AddNormArgs& add) {
  const int64_t tokens = add.x.dim(0);
  const bool is_long = add.x.dim(1) >= 2 * add.weight.dim(0);
  if (blas.sum_order() != SumOrder::kFastest || tokens < kLeastHalved || tokens > kMostHalved ||
      !is_long || add.x.type() != DataType::kBF16 || !add.x.is_contiguous() ||
      add.x.dim(1) % kHalvedMultiple != 0 || !IsWide(add.x, add.x.dim(1)) ||
      !IsWide(add.weight, add.x.dim(1))) {
    return false;
  }
  const Tensor halves = blas.LinearHalves(stream, add.x, add.weight);
  if (halves.empty()) return false;
  LaunchSumNorm(stream, add.residual, halves, add.gain, add.eps, add.norm);
  return true;
}

bool LaunchAddNormLinear(SumOrder order, cudaStream_t stream, const AddNormArgs& add,
                         const Tensor& workspace, const Tensor& weight, const Tensor& out) {
  if (!TakesBatch(order, add, out) || !IsBatch(add.norm, weight)) return false;
  LaunchBatchLinear(stream, add.norm, weight, out, AddAndNorm(stream, add, workspace));
  return true;
}

// A row for each of x's and each of the widest weight's that has a plan.
Shape AddNormZeros() { return {kBatchTokens + MaxBatchRows(), kBatchMultiple}; }

bool LaunchAddOfNormLinear(Blas& blas, cudaStream_t stream, const AddNormArgs& add,
                           const Tensor& workspace, const Tensor& weight) {
  if (TakesBatch(blas.sum_order(), add, add.norm) && IsBatch(add.norm, weight)) {
    AddAndNorm(stream, add, workspace);  // what it makes beside the sum is not used
    return true;
  }
  return LaunchAddNorm(blas, stream, add);
}

bool LaunchNormLinearOfAdd(SumOrder order, cudaStream_t stream, const AddNormArgs& add,
                           const Tensor& workspace, const Tensor& zeros, const Tensor& weight,
                           const Tensor& out) {
  if (!TakesBatch(order, add, out) || !IsBatch(add.norm, weight)) return false;
  AddNormArgs nothing = add;
  nothing.x = zeros.Slice(0, add.x.dim(0));
  nothing.weight = zeros.Slice(kBatchTokens, add.weight.dim(0));
  LaunchBatchLinear(stream, add.norm, weight, out, AddAndNorm(stream, nothing, workspace));
  return true;
}

bool LaunchAddNormGatedLinear(SumOrder order, cudaStream_t stream, const AddNormArgs& add,
                              const Tensor& workspace, const Tensor& weight, const Tensor& out) {
  if (!TakesBatch(order, add, out) || !IsGated(add.norm, weight, out) ||
      !IsGatedFast(add.norm, out)) {
    return false;
  }
  LaunchGatedBatch(stream, add.norm, weight, out, ChooseGatedPlan(out.dim(0), out.dim(1)),
                   AddAndNorm(stream, add, workspace));
  return true;
}

}  // namespace penstock::cuda
