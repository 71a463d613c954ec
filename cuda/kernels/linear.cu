#include "core/kernels/linear.h"
#include "cuda/blas.h"
#include "cuda/gated_linear.h"
#include "cuda/kernels/fused_launchers.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"
#include "cuda/skinny_chain.h"
#include "cuda/skinny_linear.h"

namespace penstock::cuda {
namespace {

// Where skinny_linear beats cuBLASLt: with more tokens it reads x again and again, which shows once
// the rows are long (tests/bench/results/2026-11-24_h200_h100_linear.md).
bool SkinnyWins(const Tensor& x) { return x.dim(0) <= 8 || x.dim(1) <= 8192; }

void Multiply(Blas& blas, cudaStream_t stream, const Tensor& x, const Tensor& weight,
              const Tensor& out, bool adds) {
  PENSTOCK_CHECK_EQ(weight.dim(1), x.dim(1));
  PENSTOCK_CHECK_EQ(out.dim(0), x.dim(0));
  PENSTOCK_CHECK_EQ(out.dim(1), weight.dim(0));
  PENSTOCK_CHECK_EQ(Name(weight.type()), Name(x.type()));
  PENSTOCK_CHECK((out.type() == x.type() && !adds) || out.type() == DataType::kF32);
  PENSTOCK_CHECK(weight.is_contiguous());
  for (const Tensor* tensor : {&x, &weight, &out}) {
    PENSTOCK_CHECK(tensor->device() == Device::kCuda);
  }
  if (blas.sum_order() == SumOrder::kFixed && IsSkinnyChain(x, weight, out)) {
    return LaunchSkinnyChain(stream, x, weight, out, adds);
  }
  if (blas.sum_order() == SumOrder::kFastest && IsSkinny(x, weight, out) && SkinnyWins(x)) {
    return LaunchSkinnyLinear(stream, x, weight, out, adds);
  }
  blas.Linear(stream, x, weight, out, adds);
}

}  // namespace

void LaunchLinear(Blas& blas, cudaStream_t stream, const Tensor& x, const Tensor& weight,
                  const Tensor& out) {
  Multiply(blas, stream, x, weight, out, false);
}

void LaunchLinearAdd(Blas& blas, cudaStream_t stream, const Tensor& x, const Tensor& weight,
                     const Tensor& sum) {
  Multiply(blas, stream, x, weight, sum, true);
}

bool LaunchGatedLinear(const Blas& blas, cudaStream_t stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out) {
  if (IsGated(x, weight, out) && IsGatedFast(x, out)) {  // its order of sums is the fixed one
    LaunchGatedBatch(stream, x, weight, out, ChooseGatedPlan(x.dim(0), out.dim(1)));
    return true;
  }
  if (blas.sum_order() != SumOrder::kFastest || out.type() != DataType::kBF16 ||
      !IsSkinny(x, weight, out) || !SkinnyWins(x)) {
    return false;
  }
  LaunchSkinnyGated(stream, x, weight, out);
  return true;
}

}  // namespace penstock::cuda
