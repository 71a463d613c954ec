#include "core/kernels/swiglu.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"
#include "cuda/swiglu.cuh"

namespace penstock::cuda {
namespace {

template <typename In, typename T, int N>
__global__ void SwigluKernel(const In* gate_up, int64_t in_stride, int64_t rows, int64_t width,
                             T* out, int64_t out_stride) {
  LetNextBegin();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= width / N) return;
  WaitForInputs();
  for (int64_t t = blockIdx.y; t < rows; t += gridDim.y) {
    const In* row = gate_up + t * in_stride + i * N;
    float gates[N];
    float ups[N];
    LoadFloats<N>(row, gates);
    LoadFloats<N>(row + width, ups);
    float result[N];
#pragma unroll
    for (int j = 0; j < N; ++j) result[j] = Swiglu(gates[j], ups[j]);
    StoreFloats<N>(result, out + t * out_stride + i * N);
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
      ForSumType<T>(gate_up.type(), [&](auto sum) {
        using In = decltype(sum);
        Launch(stream, {RowGrid(out.dim(0), width / kPack), dim3(kThreads)},
               SwigluKernel<In, T, kPack>, Elements<const In>(gate_up), gate_up.stride(0),
               out.dim(0), width, Elements<T>(out), out.stride(0));
      });
    });
  });
}

}  // namespace penstock::cuda
