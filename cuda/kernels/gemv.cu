#include "core/kernels/gemv.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

constexpr int kRows = 4;  // a warp's: one load of x serves them all, and four loads are in flight

// A warp takes four rows and reduces each over its lanes. Weights come from device memory once and
// are not kept in the first-level cache, which holds x.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    GemvKernel(const T* weight, const float* x, int64_t rows, int64_t features, float* y) {
  LetNextBegin();
  WaitForInputs();
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  const int64_t first = warp * kRows;
  if (first >= rows) return;
  float sums[kRows] = {};
#pragma unroll 4
  for (int64_t i = lane; i < features / N; i += 32) {
    Pack<T, N> packs[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      // The last warp's missing rows are its last row once more.
      const T* row = weight + min(first + r, rows - 1) * features;
      if constexpr (N > 1) {
        const int4 bits = __ldcs(reinterpret_cast<const int4*>(row) + i);
        packs[r] = *reinterpret_cast<const Pack<T, N>*>(&bits);
      } else {
        packs[r].at[0] = row[i];
      }
    }
    // N is 1, 4 or 8: x comes 16 bytes at a time as well.
    Pack<float, N == 1 ? 1 : 4> in[(N + 3) / 4];
#pragma unroll
    for (int j = 0; j < (N + 3) / 4; ++j) {
      in[j] = reinterpret_cast<const Pack<float, N == 1 ? 1 : 4>*>(x + i * N)[j];
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int j = 0; j < N; ++j) sums[r] += ToFloat(packs[r].at[j]) * in[j / 4].at[j % 4];
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float sum = WarpReduce(sums[r], Sum());
    if (lane == r && first + r < rows) y[first + r] = sum;
  }
}

}  // namespace

void LaunchGemv(cudaStream_t stream, const Tensor& weight, const Tensor& x, const Tensor& y) {
  const int64_t rows = weight.dim(0);
  const int64_t features = weight.dim(1);
  PENSTOCK_CHECK_EQ(x.dim(0), features);
  PENSTOCK_CHECK_EQ(y.dim(0), rows);
  PENSTOCK_CHECK(weight.is_contiguous());
  const bool wide = IsWide(weight, features) && IsWide(x, features);
  const dim3 grid(Blocks(rows, kRows * kThreads / 32));
  ForElementType(weight.type(), [&](auto element) {
    using T = decltype(element);
    ForWidth<T>(wide, [&](auto pack) {
      Launch(stream, {grid, dim3(kThreads)}, GemvKernel<T, decltype(pack)::value>,
             Elements<const T>(weight), Elements<const float>(x), rows, features,
             Elements<float>(y));
    });
  });
}

}  // namespace penstock::cuda
