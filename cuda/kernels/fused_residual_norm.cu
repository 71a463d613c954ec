#include "core/kernels/fused_residual_norm.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"
#include "cuda/norm_row.cuh"

namespace penstock::cuda {
namespace {

// A block a row. The sum is rounded to its own type, as it is stored, before it is squared: the
// norm is that of the residual which the next layer will read.
template <typename Residual, typename T, int N>
__global__ void FusedResidualNormKernel(Residual* residual, int64_t residual_stride, const T* x,
                                        int64_t x_stride, const T* bias, const T* gain, int hidden,
                                        float eps, T* out, int64_t out_stride) {
  extern __shared__ float shared[];
  LetNextBegin();
  auto* sums = reinterpret_cast<Pack<Residual, N>*>(residual + blockIdx.x * residual_stride);
  const auto* in = reinterpret_cast<const Pack<T, N>*>(x + blockIdx.x * x_stride);
  const auto* shift = reinterpret_cast<const Pack<T, N>*>(bias);
  NormRow<T, N>(shared, gain, hidden, eps, out + blockIdx.x * out_stride,
                [&](int i, float(&values)[N]) {
                  Pack<Residual, N> sum = sums[i];
                  const Pack<T, N> added = in[i];
#pragma unroll
                  for (int j = 0; j < N; ++j) {
                    float value = ToFloat(sum.at[j]) + ToFloat(added.at[j]);
                    if (shift != nullptr) value += ToFloat(shift[i].at[j]);
                    sum.at[j] = FromFloat<Residual>(value);
                    values[j] = ToFloat(sum.at[j]);
                  }
                  sums[i] = sum;
                });
}

}  // namespace

void LaunchFusedResidualNorm(cudaStream_t stream, const Tensor& residual, const Tensor& x,
                             const Tensor& bias, const Tensor& weight, float eps,
                             const Tensor& out) {
  const int64_t hidden = x.dim(1);
  PENSTOCK_CHECK(residual.shape() == x.shape());
  PENSTOCK_CHECK(out.shape() == x.shape());
  PENSTOCK_CHECK_EQ(weight.dim(0), hidden);
  if (!bias.empty()) PENSTOCK_CHECK_EQ(bias.dim(0), hidden);
  const bool wide = IsWide(residual, hidden) && IsWide(x, hidden) && IsWide(weight, hidden) &&
                    IsWide(out, hidden) && (bias.empty() || IsWide(bias, hidden));
  PENSTOCK_CHECK_LE(hidden, INT32_MAX);
  ForElementType(x.type(), [&](auto element) {
    using T = decltype(element);
    const T* shift = bias.empty() ? nullptr : Elements<const T>(bias);
    ForResidualType<T>(residual.type(), [&](auto stored) {
      using Residual = decltype(stored);
      ForWidth<T>(wide, [&](auto width) {
        const auto kernel = FusedResidualNormKernel<Residual, T, decltype(width)::value>;
        const LaunchShape shape = NormShape(x.dim(0), hidden, decltype(width)::value);
        AllowShared(kernel, shape.shared_bytes);
        Launch(stream, shape, kernel, Elements<Residual>(residual), residual.stride(0),
               Elements<const T>(x), x.stride(0), shift, Elements<const T>(weight),
               static_cast<int>(hidden), eps, Elements<T>(out), out.stride(0));
      });
    });
  });
}

}  // namespace penstock::cuda
