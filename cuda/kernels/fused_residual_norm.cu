
#include "core/kernels/fused_residual_norm.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"
#include "cuda/norm_row.cuh"

namespace penstock::cuda {
namespace {

// A block a row. The sum is rounded to its own type, as it is stored, before it is squared: the
// norm is that of the residual which the next layer will read. It stays in shared memory as f32
// meanwhile.
template <typename Residual, typename T, int N>
__global__ void FusedResidualNormKernel(Residual* residual, int64_t residual_stride, const T* x,
                                        int64_t x_stride, const T* bias, const T* gain,
                                        int64_t hidden, float eps, T* out, int64_t out_stride) {
  extern __shared__ float row[];  // [hidden]
  LetNextBegin();
  PrefetchGain(gain, hidden);
  WaitForInputs();
  auto* sums = reinterpret_cast<Pack<Residual, N>*>(residual + blockIdx.x * residual_stride);
  const auto* in = reinterpret_cast<const Pack<T, N>*>(x + blockIdx.x * x_stride);
  const auto* shift = reinterpret_cast<const Pack<T, N>*>(bias);
  float squares = 0;
  for (int64_t i = threadIdx.x; i < hidden / N; i += blockDim.x) {
    Pack<Residual, N> sum = sums[i];
    const Pack<T, N> added = in[i];
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float value = ToFloat(sum.at[j]) + ToFloat(added.at[j]);
      if (shift != nullptr) value += ToFloat(shift[i].at[j]);
      sum.at[j] = FromFloat<Residual>(value);
      value = ToFloat(sum.at[j]);
      row[i * N + j] = value;
      squares += value * value;
    }
    sums[i] = sum;
  }
  NormalizeRow<T, N>(row, squares, gain, hidden, eps, out + blockIdx.x * out_stride);
}

// The same of a few rows, bit for bit, where a row's latency is what counts: of up to kHeld packs a
// thread all loads are under way at once, the gains' before the inputs are there, and the row stays
// in registers. Of many rows the blocks would be too large.
template <typename Residual, typename T, int N, int kHeld>
__global__ void __launch_bounds__(kThreads)
    HeldResidualNormKernel(Residual* residual, int64_t residual_stride, const T* x,
                           int64_t x_stride, const T* bias, const T* gain, int64_t hidden,
                           float eps, T* out, int64_t out_stride) {
  const int packs = static_cast<int>(hidden / N);
  const auto has = [&](int pack) {
    return static_cast<int>(threadIdx.x) + pack * kThreads < packs;
  };
  LetNextBegin();
  Pack<T, N> gains[kHeld];
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    if (has(p)) gains[p] = reinterpret_cast<const Pack<T, N>*>(gain)[threadIdx.x + p * kThreads];
  }
  WaitForInputs();
  auto* sums =
      reinterpret_cast<Pack<Residual, N>*>(residual + blockIdx.x * residual_stride) + threadIdx.x;
  const auto* in = reinterpret_cast<const Pack<T, N>*>(x + blockIdx.x * x_stride) + threadIdx.x;
  const auto* shift = reinterpret_cast<const Pack<T, N>*>(bias) + threadIdx.x;
  Pack<Residual, N> sum[kHeld];
  Pack<T, N> added[kHeld];
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    if (!has(p)) continue;
    sum[p] = sums[p * kThreads];
    added[p] = in[p * kThreads];
  }
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    if (!has(p)) continue;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float value = ToFloat(sum[p].at[j]) + ToFloat(added[p].at[j]);
      if (bias != nullptr) value += ToFloat(shift[p * kThreads].at[j]);
      sum[p].at[j] = FromFloat<Residual>(value);
      value = ToFloat(sum[p].at[j]);
      squares += value * value;
    }
  }
  const float total = BlockReduce(squares, 0.0f, Sum());
  const float scale = 1.0f / sqrtf(total / static_cast<float>(hidden) + eps);
  auto* results = reinterpret_cast<Pack<T, N>*>(out + blockIdx.x * out_stride) + threadIdx.x;
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    if (!has(p)) continue;
    Pack<T, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      result.at[j] = FromFloat<T>(ToFloat(sum[p].at[j]) * scale * ToFloat(gains[p].at[j]));
    }
    results[p * kThreads] = result;
    sums[p * kThreads] = sum[p];
  }
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
  ForElementType(x.type(), [&](auto element) {
    using T = decltype(element);
    const T* shift = bias.empty() ? nullptr : Elements<const T>(bias);
    ForResidualType<T>(residual.type(), [&](auto stored) {
      using Residual = decltype(stored);
      ForWidth<T>(wide, [&](auto width) {
        constexpr int kWidth = decltype(width)::value;
        const auto run = [&](auto kernel, size_t shared) {
          AllowShared(kernel, shared);
          Launch(stream, {dim3(Blocks(x.dim(0))), dim3(kThreads), shared}, kernel,
                 Elements<Residual>(residual), residual.stride(0), Elements<const T>(x),
                 x.stride(0), shift, Elements<const T>(weight), hidden, eps, Elements<T>(out),
                 out.stride(0));
        };
        const bool is_few = x.dim(0) <= 2 * NumMultiprocessors();
        if constexpr (kWidth > 1) {
          constexpr int64_t kOnce = int64_t{kWidth} * kThreads;
          if (is_few && hidden <= 2 * kOnce) {
            return run(HeldResidualNormKernel<Residual, T, kWidth, 2>, 0);
          }
          if (is_few && hidden <= 4 * kOnce) {
            return run(HeldResidualNormKernel<Residual, T, kWidth, 4>, 0);
          }
        }
        run(FusedResidualNormKernel<Residual, T, kWidth>,
            static_cast<size_t>(hidden) * sizeof(float));
      });
    });
  });
}

}  // namespace penstock::cuda
