#include "core/kernels/rms_norm.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"
#include "cuda/norm_row.cuh"

namespace penstock::cuda {
namespace {

// A block a row. x is read once from device memory or level 2 and kept in shared memory as f32.
template <typename T, int N>
__global__ void RmsNormKernel(const T* x, int64_t x_stride, const T* gain, int64_t hidden,
                              float eps, T* out, int64_t out_stride) {
  extern __shared__ float row[];  // [hidden]
  LetNextBegin();
  PrefetchGain(gain, hidden);
  WaitForInputs();
  const auto* in = reinterpret_cast<const Pack<T, N>*>(x + blockIdx.x * x_stride);
  float squares = 0;
  for (int64_t i = threadIdx.x; i < hidden / N; i += blockDim.x) {
    const Pack<T, N> pack = in[i];
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float value = ToFloat(pack.at[j]);
      row[i * N + j] = value;
      squares += value * value;
    }
  }
  NormalizeRow<T, N>(row, squares, gain, hidden, eps, out + blockIdx.x * out_stride);
}

// A warp a row.
template <typename T, int N, int kPacks>
__global__ void __launch_bounds__(kNormWarps * 32)
    RmsNormRowsKernel(const T* x, int64_t x_stride, const T* gain, int64_t rows, int64_t hidden,
                      float eps, T* out, int64_t out_stride) {
  LetNextBegin();
  PrefetchGain(gain, hidden);
  WaitForInputs();
  const int64_t r = int64_t{blockIdx.x} * kNormWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const auto* in = reinterpret_cast<const Pack<T, N>*>(x + r * x_stride);
  Pack<T, N> row[kPacks];
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int at = i * 32 + static_cast<int>(threadIdx.x) % 32;
    if (at < hidden / N) row[i] = in[at];
  }
  float squares[kNormWarps] = {};
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    if (i * 32 + static_cast<int>(threadIdx.x) % 32 >= hidden / N) break;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float value = ToFloat(row[i].at[j]);
      squares[i % kNormWarps] += value * value;
    }
  }
  NormalizeWarpRow<T, N, kPacks>(row, squares, gain, hidden, eps, out + r * out_stride);
}

}  // namespace

void LaunchRmsNorm(cudaStream_t stream, const Tensor& x, const Tensor& weight, float eps,
                   const Tensor& out) {
  const int64_t hidden = x.dim(1);
  PENSTOCK_CHECK_EQ(weight.dim(0), hidden);
  PENSTOCK_CHECK(out.shape() == x.shape());
  const bool wide = IsWide(x, hidden) && IsWide(weight, hidden) && IsWide(out, hidden);
  const size_t shared = static_cast<size_t>(hidden) * sizeof(float);
  ForElementType(x.type(), [&](auto element) {
    using T = decltype(element);
    ForWidth<T>(wide, [&](auto width) {
      constexpr int N = decltype(width)::value;
      const bool done = ForWarpRows<N>(x.dim(0), hidden, [&](auto packs) {
        Launch(stream, {dim3(Blocks(x.dim(0), kNormWarps)), dim3(kNormWarps * 32)},
               RmsNormRowsKernel<T, N, decltype(packs)::value>, Elements<const T>(x), x.stride(0),
               Elements<const T>(weight), x.dim(0), hidden, eps, Elements<T>(out), out.stride(0));
      });
      if (done) return;
      const auto kernel = RmsNormKernel<T, N>;
      AllowShared(kernel, shared);
      Launch(stream, {dim3(Blocks(x.dim(0))), dim3(kThreads), shared}, kernel, Elements<const T>(x),
             x.stride(0), Elements<const T>(weight), hidden, eps, Elements<T>(out), out.stride(0));
    });
  });
}

}  // namespace penstock::cuda
