#include "core/kernels/swiglu.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"
#include "cuda/swiglu.cuh"

namespace penstock::cuda {
namespace {

template <typename T, int N>
__global__ void SwigluKernel(const T* gate_up, int64_t in_stride, int64_t rows, int64_t width,
                             T* out, int64_t out_stride) {
  LetNextBegin();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= width / N) return;
  WaitForInputs();
  for (int64_t t = blockIdx.y; t < rows; t += gridDim.y) {
    const T* row = gate_up + t * in_stride;
    const Pack<T, N> gates = reinterpret_cast<const Pack<T, N>*>(row)[i];
    const Pack<T, N> ups = reinterpret_cast<const Pack<T, N>*>(row + width)[i];
    Pack<T, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      result.at[j] = FromFloat<T>(Swiglu(ToFloat(gates.at[j]), ToFloat(ups.at[j])));
    }
    reinterpret_cast<Pack<T, N>*>(out + t * out_stride)[i] = result;
  }
}

}  // namespace

void LaunchSwiglu(cudaStream_t stream, const Tensor& gate_up, const Tensor& out) {
  const int64_t width = out.dim(1);
  PENSTOCK_CHECK_EQ(gate_up.dim(1), 2 * width);
  PENSTOCK_CHECK_EQ(gate_up.dim(0), out.dim(0));
  const bool wide = IsWide(gate_up, width) && IsWide(out, width);
  ForElementType(out.type(), [&](auto element) {
    using T = decltype(element);
    ForWidth<T>(wide, [&](auto pack) {
      constexpr int kPack = decltype(pack)::value;
      Launch(stream, {RowGrid(out.dim(0), width / kPack), dim3(kThreads)}, SwigluKernel<T, kPack>,
             Elements<const T>(gate_up), gate_up.stride(0), out.dim(0), width, Elements<T>(out),
             out.stride(0));
    });
  });
}

}  // namespace penstock::cuda
