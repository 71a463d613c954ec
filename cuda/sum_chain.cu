#include "cuda/launch.h"
#include "cuda/sum_chain.h"
#include "cuda/tensor_core.cuh"

namespace penstock::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kFeatures = 16 * kWarps;  // of a block
constexpr int kTokens = 32;
constexpr int kSampleFeatures = 4096;

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
  int feature_blocks;     // of which the grid has all or, if it counts differences, a sample
  unsigned* differences;  // counted instead of writing, if not nullptr
  bool adds;

  __device__ __forceinline__ int FeatureBlock() const {
    return static_cast<int>(int64_t{feature_blocks} * blockIdx.x / gridDim.x);
  }
};

template <typename T, typename Out>
__device__ __forceinline__ void Leave(const ChainProblem<T, Out>& problem, int token, int feature,
                                      float sum) {
  if (token >= problem.tokens || feature >= problem.features) return;
  Out* at = problem.out + token * problem.out_stride + feature;
  if (problem.adds) sum += ToFloat(*at);
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

// Four elements of a row from k on, zeros outside. kWide: 8 bytes at once.
template <bool kWide, typename T>
__device__ __forceinline__ uint2 Four(const T* row, bool in, int k, int in_features) {
  if (!in) return {};
  if constexpr (kWide) return *reinterpret_cast<const uint2*>(row + k);
  const auto* bits = reinterpret_cast<const uint16_t*>(row);
  const auto at = [&](int i) { return i < in_features ? uint32_t{bits[i]} : 0u; };
  return {at(k) | at(k + 1) << 16, at(k + 2) | at(k + 3) << 16};
}

// A warp has 16 features of 32 tokens. Of each 16 k's a lane takes four that lie together: which
// lane has which does not matter.
template <bool kWide, typename T, typename Out>
__global__ void __launch_bounds__(kWarps * 32)
    ChainKernel(const __grid_constant__ ChainProblem<T, Out> problem) {
  LetNextBegin();
  WaitForInputs();
  const int lane = threadIdx.x % 32;
  const int feature = problem.FeatureBlock() * kFeatures + threadIdx.x / 32 * 16 + lane / 4;
  const int token = static_cast<int>(blockIdx.y) * kTokens;
  const bool has[2] = {feature < problem.features, feature + 8 < problem.features};
  const T* upper = problem.weight + int64_t{feature} * problem.in_features;
  const T* lower = upper + int64_t{8} * problem.in_features;
  float c[kTokens / 8][4] = {};
#pragma unroll 4
  for (int base = 0; base < problem.in_features; base += 16) {
    const int k = base + lane % 4 * 4;
    const uint2 of_upper = Four<kWide>(upper, has[0], k, problem.in_features);
    const uint2 of_lower = Four<kWide>(lower, has[1], k, problem.in_features);
    const uint32_t a[4] = {of_upper.x, of_lower.x, of_upper.y, of_lower.y};
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      const int of = token + j * 8 + lane / 4;
      const uint2 b = Four<kWide>(problem.x + of * problem.x_stride, of < problem.tokens, k,
                                  problem.in_features);
      MultiplyAdd<T>(c[j], a, b.x, b.y);
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
__global__ void __launch_bounds__(kWarps * 32)
    ChainFloatKernel(const __grid_constant__ ChainProblem<float, float> problem) {
  LetNextBegin();
  WaitForInputs();
  if (threadIdx.x >= kFeatures) return;
  const int feature = problem.FeatureBlock() * kFeatures + threadIdx.x;
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
                 bool adds, unsigned* differences) {
  const ChainProblem<T, Out> problem = {Elements<const T>(x),
                                        Elements<const T>(weight),
                                        Elements<Out>(out),
                                        static_cast<int>(x.dim(0)),
                                        static_cast<int>(weight.dim(0)),
                                        static_cast<int>(x.dim(1)),
                                        x.stride(0),
                                        out.stride(0),
                                        static_cast<int>(Blocks(weight.dim(0), kFeatures)),
                                        differences,
                                        adds};
  const unsigned token_blocks = Blocks(x.dim(0), kTokens);
  PENSTOCK_CHECK_LE(token_blocks, 65535u);
  const int most = differences == nullptr ? INT32_MAX : kSampleFeatures / kFeatures;
  const LaunchShape shape = {dim3(Blocks(std::min(problem.feature_blocks, most)), token_blocks),
                             dim3(kWarps * 32)};
  if constexpr (sizeof(T) == 4) {
    Launch(stream, shape, ChainFloatKernel, problem);
  } else {
    const bool wide = x.dim(1) % 16 == 0 && IsWide(x, 8) && IsWide(weight, 8);
    Launch(stream, shape, wide ? ChainKernel<true, T, Out> : ChainKernel<false, T, Out>, problem);
  }
}

void LaunchChain(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
                 bool adds, unsigned* differences) {
  PENSTOCK_CHECK_EQ(x.dim(1), weight.dim(1));
  PENSTOCK_CHECK_LE(x.dim(1), INT32_MAX / 2);
  ForElementType(x.type(), [&](auto element) {
    using T = decltype(element);
    if (out.type() == DataType::kF32) {
      LaunchChain<T, float>(stream, x, weight, out, adds, differences);
    } else {
      LaunchChain<T, T>(stream, x, weight, out, adds, differences);
    }
  });
}

}  // namespace

void LaunchChainLinear(cudaStream_t stream, const Tensor& x, const Tensor& weight,
                       const Tensor& out, bool adds) {
  LaunchChain(stream, x, weight, out, adds, nullptr);
}

bool IsChain(cudaStream_t stream, const Tensor& x, const Tensor& weight, const Tensor& out,
             const std::function<void(const Tensor& x)>& multiply) {
  constexpr int64_t kElements = int64_t{1} << 18;
  // At both ends of a product: kernels have a form of their own for what is left over.
  const int64_t tokens = std::min<int64_t>(x.dim(0), kTokens);
  const int64_t last = x.dim(0) - tokens;
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
  for (int64_t done = 0; done < kElements;
       done += 2 * tokens * std::min<int64_t>(out.dim(1), kSampleFeatures)) {
    ForElementType(x.type(), [&](auto element) {
      using T = decltype(element);
      Launch(stream, {dim3(Blocks(extent, kThreads)), dim3(kThreads)}, RandomKernel<T>,
             static_cast<T*>(memory), extent, seed++);
    });
    multiply(random);
    for (const int64_t first : {int64_t{0}, last}) {
      LaunchChain(stream, random.Slice(first, tokens), weight, out.Slice(first, tokens), false,
                  differences);
    }
  }
  CUDA_CHECK(
      cudaMemcpyAsync(&count, differences, sizeof(unsigned), cudaMemcpyDeviceToHost, stream));
  CUDA_CHECK(cudaStreamSynchronize(stream));
  CUDA_CHECK(cudaFree(differences));
  CUDA_CHECK(cudaFree(memory));
  return count == 0;
}

}  // namespace penstock::cuda
