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
  const int feature = static_cast<int>(blockIdx.x) * kFeatures + threadIdx.x / 32 * 16 + lane / 4;
  const int token = static_cast<int>(blockIdx.y) * kTokens;
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
  const int feature = static_cast<int>(blockIdx.x) * kFeatures + threadIdx.x;
  if (feature >= problem.features) return;
  const float* weight = problem.weight + int64_t{feature} * problem.in_features;
  for (int i = 0; i < kTokens; ++i) {
    const int token = static_cast<int>(blockIdx.y) * kTokens + i;
    if (token >= problem.tokens) return;
    const float* x = problem.x + token * problem.x_stride;
    float sum = 0;
    for (int k = 0; k < problem.in_features; ++k) sum = fmaf(x[k], weight[k], sum);
    Leave(problem, token, feature, sum);
  }
}

// Between -2 and 2, of both signs and many magnitudes (the mixing is that of MurmurHash3).
template <typename T>
__global__ void RandomKernel(T* to, int64_t count, unsigned seed) {
  WaitForInputs();
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  unsigned bits = static_cast<unsigned>(i) * 0x9e3779b9u + seed * 0x85ebca6bu;
  bits = (bits ^ bits >> 16) * 0x85ebca6bu;
  bits = (bits ^ bits >> 13) * 0xc2b2ae35u;
  bits ^= bits >> 16;
  const float mantissa = 1.0f + static_cast<float>(bits & 0xffff) / 65536.0f;
  const float value = ldexpf(mantissa, -static_cast<int>(bits >> 16 & 7));
  to[i] = FromFloat<T>((bits >> 31) != 0 ? -value : value);
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
                                        differences};
  const unsigned token_blocks = Blocks(x.dim(0), kTokens);
  PENSTOCK_CHECK_LE(token_blocks, 65535u);
  Launch(stream, {dim3(Blocks(weight.dim(0), kFeatures), token_blocks), dim3(kWarps * 32)},
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

bool IsChain(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
             const std::function<void(const Tensor& x)>& multiply) {
  constexpr int64_t kElements = int64_t{1} << 18;
  constexpr int64_t kMostTokens = 64;  // of a product that are compared: its first
  const int64_t tokens = std::min(x.dim(0), kMostTokens);
  const int64_t extent = (x.dim(0) - 1) * x.stride(0) + x.dim(1);
  void* memory = nullptr;
  unsigned* differences = nullptr;
  unsigned count = 0;
  CUDA_CHECK(cudaMalloc(&memory, static_cast<size_t>(extent * Info(x.type()).block_bytes)));
  CUDA_CHECK(cudaMalloc(&differences, sizeof(unsigned)));
  CUDA_CHECK(cudaMemsetAsync(differences, 0, sizeof(unsigned), stream));
  const Tensor random =
      Tensor::Borrow(memory, x.type(), {x.dim(0), x.stride(0)}, Device::kCuda).Columns(0, x.dim(1));
  unsigned seed = 1;
  for (int64_t done = 0; done < kElements; done += tokens * out.dim(1)) {
    ForElementType(x.type(), [&](auto element) {
      using T = decltype(element);
      Launch(stream, {dim3(Blocks(extent, kThreads)), dim3(kThreads)}, RandomKernel<T>,
             static_cast<T*>(memory), extent, seed++);
    });
    multiply(random);
    LaunchChain(stream, random.Slice(0, tokens), weight, out.Slice(0, tokens), differences);
  }
  CUDA_CHECK(
      cudaMemcpyAsync(&count, differences, sizeof(unsigned), cudaMemcpyDeviceToHost, stream));
  CUDA_CHECK(cudaStreamSynchronize(stream));
  CUDA_CHECK(cudaFree(differences));
  CUDA_CHECK(cudaFree(memory));
  return count == 0;
}

}  // namespace penstock::cuda
