#include "cuda/launch.h"
#include "cuda/sum_chain.h"
#include "cuda/tensor_core.cuh"

namespace penstock::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kFeatures = 16 * kWarps;  // of a block
constexpr int kTokens = 32;

template <typename T, typename Out>
struct ChainProblem {
  const T* x;
  const T* weight;
  Out* out;
  int tokens;
  int features;
  int in_features;
  int64_t x_stride;
  int64_t out_stride;
  int feature_blocks;  // of which the grid has as many or, spread over them, fewer
  int token_blocks;
  unsigned* differences;  // counted instead of writing, if not nullptr
};

template <typename T, typename Out>
__device__ __forceinline__ void Leave(const ChainProblem<T, Out>& problem, int token, int feature,
                                      float sum) {
  if (token >= problem.tokens || feature >= problem.features) return;
  Out* at = problem.out + token * problem.out_stride + feature;
  const Out value = FromFloat<Out>(sum);
  if (problem.differences == nullptr) {
    *at = value;
    return;
  }
  bool differs;
  if constexpr (sizeof(Out) == 4) {
    differs = __float_as_uint(*at) != __float_as_uint(value);
  } else {
    differs = reinterpret_cast<const uint16_t&>(*at) != reinterpret_cast<const uint16_t&>(value);
  }
  if (differs) atomicAdd(problem.differences, 1u);
}

// Two elements of a row from k on, zeros outside.
template <typename T>
__device__ __forceinline__ uint32_t Two(const T* row, bool in, int k, int in_features) {
  const auto* bits = reinterpret_cast<const uint16_t*>(row);
  const uint32_t first = in && k < in_features ? bits[k] : 0;
  const uint32_t second = in && k + 1 < in_features ? bits[k + 1] : 0;
  return first | second << 16;
}

// A warp has 16 features of 32 tokens.
template <typename T, typename Out>
__global__ void __launch_bounds__(kWarps * 32)
    ChainKernel(const __grid_constant__ ChainProblem<T, Out> problem) {
  LetNextBegin();
  WaitForInputs();
  const int lane = threadIdx.x % 32;
  const int feature_block = int64_t{problem.feature_blocks} * blockIdx.x / gridDim.x;
  const int token_block = int64_t{problem.token_blocks} * blockIdx.y / gridDim.y;
  const int feature = feature_block * kFeatures + threadIdx.x / 32 * 16 + lane / 4;
  const int token = token_block * kTokens;
  const bool has[2] = {feature < problem.features, feature + 8 < problem.features};
  const T* weight = problem.weight + int64_t{feature} * problem.in_features;
  const int64_t eight_rows = int64_t{8} * problem.in_features;
  float c[kTokens / 8][4] = {};
  for (int base = 0; base < problem.in_features; base += 16) {
    const int k = base + lane % 4 * 2;
    uint32_t a[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[i] = Two(weight + i % 2 * eight_rows, has[i % 2], k + i / 2 * 8, problem.in_features);
    }
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      const int of = token + j * 8 + lane / 4;
      const T* x = problem.x + of * problem.x_stride;
      const bool in = of < problem.tokens;
      MultiplyAdd<T>(c[j], a, Two(x, in, k, problem.in_features),
                     Two(x, in, k + 8, problem.in_features));
    }
  }
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Leave(problem, token + j * 8 + lane % 4 * 2 + i % 2, feature + i / 2 * 8, c[j][i]);
    }
  }
}

// A thread has one feature of 32 tokens.
template <>
__global__ void __launch_bounds__(kWarps * 32)
    ChainKernel<float, float>(const __grid_constant__ ChainProblem<float, float> problem) {
  LetNextBegin();
  WaitForInputs();
  if (threadIdx.x >= kFeatures) return;
  const int feature_block = int64_t{problem.feature_blocks} * blockIdx.x / gridDim.x;
  const int token_block = int64_t{problem.token_blocks} * blockIdx.y / gridDim.y;
  const int feature = feature_block * kFeatures + threadIdx.x;
  if (feature >= problem.features) return;
  const float* weight = problem.weight + int64_t{feature} * problem.in_features;
  for (int i = 0; i < kTokens; ++i) {
    const int token = token_block * kTokens + i;
    if (token >= problem.tokens) return;
    const float* x = problem.x + token * problem.x_stride;
    float sum = 0;
    for (int k = 0; k < problem.in_features; ++k) sum = fmaf(x[k], weight[k], sum);
    Leave(problem, token, feature, sum);
  }
}

template <typename T, typename Out>
void LaunchChain(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
                 unsigned* differences) {
  const ChainProblem<T, Out> problem = {Elements<const T>(x),
                                        Elements<const T>(weight),
                                        Elements<Out>(out),
                                        static_cast<int>(x.dim(0)),
                                        static_cast<int>(weight.dim(0)),
                                        static_cast<int>(x.dim(1)),
                                        x.stride(0),
                                        out.stride(0),
                                        static_cast<int>(Blocks(weight.dim(0), kFeatures)),
                                        static_cast<int>(Blocks(x.dim(0), kTokens)),
                                        differences};
  // A sample has tokens and features of all parts.
  const int most[2] = {differences == nullptr ? INT32_MAX : 2048 / kFeatures,
                       differences == nullptr ? 65535 : 128 / kTokens};
  PENSTOCK_CHECK(differences != nullptr || problem.token_blocks <= most[1]);
  Launch(stream,
         {dim3(Blocks(std::min(problem.feature_blocks, most[0])),
               Blocks(std::min(problem.token_blocks, most[1]))),
          dim3(kWarps * 32)},
         ChainKernel<T, Out>, problem);
}

void LaunchChain(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
                 unsigned* differences) {
  PENSTOCK_CHECK_EQ(x.dim(1), weight.dim(1));
  PENSTOCK_CHECK_LE(x.dim(1), INT32_MAX / 2);
  ForElementType(x.type(), [&](auto element) {
    using T = decltype(element);
    if (out.type() == DataType::kF32) {
      LaunchChain<T, float>(stream, x, weight, out, differences);
    } else {
      LaunchChain<T, T>(stream, x, weight, out, differences);
    }
  });
}

}  // namespace

void LaunchChainLinear(cudaStream_t stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out) {
  LaunchChain(stream, x, weight, out, nullptr);
}

bool IsChain(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out) {
  unsigned* differences = nullptr;
  unsigned count = 0;
  CUDA_CHECK(cudaMalloc(&differences, sizeof(unsigned)));
  CUDA_CHECK(cudaMemsetAsync(differences, 0, sizeof(unsigned), stream));
  LaunchChain(stream, x, weight, out, differences);
  CUDA_CHECK(
      cudaMemcpyAsync(&count, differences, sizeof(unsigned), cudaMemcpyDeviceToHost, stream));
  CUDA_CHECK(cudaStreamSynchronize(stream));
  CUDA_CHECK(cudaFree(differences));
  return count == 0;
}

}  // namespace penstock::cuda
