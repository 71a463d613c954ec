#include "core/kernels/rms_norm.h"
#include "cuda/kernels/fused_launchers.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"
#include "cuda/norm_row.cuh"

namespace penstock::cuda {
namespace {

// A block a row. x is read once from device memory or level 2 and kept in shared memory as f32.
template <typename From, typename T, int N>
__global__ void RmsNormKernel(const From* x, int64_t x_stride, const T* gain, int hidden, float eps,
                              T* out, int64_t out_stride) {
  extern __shared__ float shared[];
  LetNextBegin();
  const auto* in = reinterpret_cast<const Pack<From, N>*>(x + blockIdx.x * x_stride);
  NormRow<T, N>(shared, gain, hidden, eps, out + blockIdx.x * out_stride,
                [&](int i, float(&values)[N]) {
                  const Pack<From, N> pack = in[i];
#pragma unroll
                  for (int j = 0; j < N; ++j) values[j] = ToFloat(pack.at[j]);
                });
}

// The same of a row that both halves of a product are added to first.
template <typename T, int N>
__global__ void SumNormKernel(float* x, int64_t x_stride, const float* halves, int64_t apart,
                              const T* gain, int hidden, float eps, T* out, int64_t out_stride) {
  extern __shared__ float shared[];
  LetNextBegin();
  auto* sums = reinterpret_cast<Pack<float, N>*>(x + blockIdx.x * x_stride);
  const auto* first =
      reinterpret_cast<const Pack<float, N>*>(halves + int64_t{blockIdx.x} * hidden);
  const auto* second =
      reinterpret_cast<const Pack<float, N>*>(halves + apart + int64_t{blockIdx.x} * hidden);
  NormRow<T, N>(shared, gain, hidden, eps, out + blockIdx.x * out_stride,
                [&](int i, float(&values)[N]) {
                  Pack<float, N> sum = sums[i];
                  const Pack<float, N> a = first[i];
                  const Pack<float, N> b = second[i];
#pragma unroll
                  for (int j = 0; j < N; ++j) {
                    sum.at[j] += a.at[j] + b.at[j];
                    values[j] = sum.at[j];
                  }
                  sums[i] = sum;
                });
}

}  // namespace

void LaunchSumNorm(cudaStream_t stream, const Tensor& x, const Tensor& halves, const Tensor& weight,
                   float eps, const Tensor& out) {
  const int64_t hidden = x.dim(1);
  PENSTOCK_CHECK(halves.shape() == Shape({2, x.dim(0), hidden}) && halves.is_contiguous());
  PENSTOCK_CHECK_EQ(weight.dim(0), hidden);
  PENSTOCK_CHECK(out.shape() == x.shape());
  PENSTOCK_CHECK_LE(hidden, INT32_MAX);
  const bool wide =
      IsWide(x, hidden) && IsWide(halves, hidden) && IsWide(weight, hidden) && IsWide(out, hidden);
  ForElementType(out.type(), [&](auto element) {
    using T = decltype(element);
    ForWidth<T>(wide, [&](auto width) {
      const auto kernel = SumNormKernel<T, decltype(width)::value>;
      const LaunchShape shape = NormShape(x.dim(0), hidden, decltype(width)::value);
      AllowShared(kernel, shape.shared_bytes);
      Launch(stream, shape, kernel, Elements<float>(x), x.stride(0), Elements<const float>(halves),
             x.dim(0) * hidden, Elements<const T>(weight), static_cast<int>(hidden), eps,
             Elements<T>(out), out.stride(0));
    });
  });
}

void LaunchRmsNorm(cudaStream_t stream, const Tensor& x, const Tensor& weight, float eps,
                   const Tensor& out) {
  const int64_t hidden = x.dim(1);
  PENSTOCK_CHECK_EQ(weight.dim(0), hidden);
  PENSTOCK_CHECK(out.shape() == x.shape());
  const bool wide = IsWide(x, hidden) && IsWide(weight, hidden) && IsWide(out, hidden);
  PENSTOCK_CHECK_LE(hidden, INT32_MAX);
  ForElementType(out.type(), [&](auto element) {
    using T = decltype(element);
    ForResidualType<T>(x.type(), [&](auto from) {
      using From = decltype(from);
      ForWidth<T>(wide, [&](auto width) {
        const auto kernel = RmsNormKernel<From, T, decltype(width)::value>;
        const LaunchShape shape = NormShape(x.dim(0), hidden, decltype(width)::value);
        AllowShared(kernel, shape.shared_bytes);
        Launch(stream, shape, kernel, Elements<const From>(x), x.stride(0),
               Elements<const T>(weight), static_cast<int>(hidden), eps, Elements<T>(out),
               out.stride(0));
      });
    });
  });
}

}  // namespace penstock::cuda
