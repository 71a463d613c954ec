#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "cuda/cuda_check.h"
#include "cuda/launch.h"
#include "tests/bench/cuda_bench.h"

namespace penstock::bench {
namespace {

using Bf16 = __nv_bfloat16;

// Small normal-looking values of either sign from a counter: the sum of four uniform bytes.
template <typename T>
__global__ void FillKernel(T* data, int64_t count, uint32_t seed, float scale) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    uint32_t bits = static_cast<uint32_t>(i) * 2654435761u ^ static_cast<uint32_t>(i >> 32) ^ seed;
    bits = (bits ^ bits >> 16) * 0x85ebca6bu;
    bits = (bits ^ bits >> 13) * 0xc2b2ae35u;
    bits ^= bits >> 16;
    const int sum = (bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24) - 510;
    data[i] = cuda::FromFloat<T>(scale * static_cast<float>(sum) / 148.0f);
  }
}

// error[0] += (out - reference)^2, error[1] += reference^2; a warp an element, in float64.
__global__ void CheckKernel(const Bf16* x, const Bf16* weight, const Bf16* out, int64_t n,
                            int64_t k, double* error) {
  const int64_t row = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int64_t token = blockIdx.y;
  if (row >= n) return;
  double sum = 0;
  for (int64_t i = threadIdx.x % 32; i < k; i += 32) {
    sum += double{__bfloat162float(x[token * k + i])} * __bfloat162float(weight[row * k + i]);
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x % 32 != 0) return;
  const double difference = __bfloat162float(out[token * n + row]) - sum;
  atomicAdd(&error[0], difference * difference);
  atomicAdd(&error[1], sum * sum);
}

}  // namespace

Tensor Uninitialized(DataType type, const Shape& shape) {
  void* data = nullptr;
  const int64_t bytes = shape.num_elements() * Info(type).block_bytes;
  CUDA_CHECK(cudaMalloc(&data, static_cast<size_t>(bytes)));
  CUDA_CHECK(cudaMemset(data, 0xff, static_cast<size_t>(bytes)));
  CUDA_CHECK(cudaDeviceSynchronize());  // it is asynchronous, and other streams do not wait for it
  const std::shared_ptr<void> owner(data, [](void* p) { CUDA_CHECK(cudaFree(p)); });
  return Tensor::Share(owner, data, type, shape, Device::kCuda);
}

Tensor Random(DataType type, const Shape& shape, uint32_t seed, float scale) {
  const Tensor tensor = Uninitialized(type, shape);
  cuda::ForElementType(type, [&](auto element) {
    using T = decltype(element);
    FillKernel<T><<<1024, 256>>>(cuda::Elements<T>(tensor), tensor.num_elements(), seed, scale);
  });
  CUDA_CHECK(cudaDeviceSynchronize());
  return tensor;
}

// Of one replay of a graph that holds what `enqueue` puts into a stream, in microseconds.
double GraphMicroseconds(const CudaStream& stream, const std::function<void()>& enqueue, int runs) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  CUDA_CHECK(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  enqueue();
  CUDA_CHECK(cudaStreamEndCapture(stream.get(), &graph));
  CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
  const CudaEvent begin(CudaEvent::Timing::kOn);
  const CudaEvent end(CudaEvent::Timing::kOn);
  std::vector<double> times;
  for (int run = -3; run < runs; ++run) {
    stream.Record(begin);
    CUDA_CHECK(cudaGraphLaunch(exec, stream.get()));
    stream.Record(end);
    end.Synchronize();
    if (run >= 0) times.push_back(end.MillisecondsSince(begin) * 1e3);
  }
  CUDA_CHECK(cudaGraphExecDestroy(exec));
  CUDA_CHECK(cudaGraphDestroy(graph));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

double LinearError(const Tensor& x, const Tensor& weight, const Tensor& out) {
  double* device = nullptr;
  CUDA_CHECK(cudaMalloc(&device, 2 * sizeof(double)));
  CUDA_CHECK(cudaMemset(device, 0, 2 * sizeof(double)));
  const dim3 grid(cuda::Blocks(weight.dim(0), 8), cuda::Blocks(x.dim(0)));
  CheckKernel<<<grid, 256>>>(cuda::Elements<const Bf16>(x), cuda::Elements<const Bf16>(weight),
                             cuda::Elements<const Bf16>(out), weight.dim(0), weight.dim(1), device);
  CUDA_CHECK_LAUNCH(CheckKernel);
  double error[2];
  CUDA_CHECK(cudaMemcpy(error, device, sizeof(error), cudaMemcpyDeviceToHost));
  CUDA_CHECK(cudaFree(device));
  return std::sqrt(error[0] / error[1]);
}

void PrintDevice() {
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  int runtime = 0;
  CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  std::printf("{\"gpu\": \"%s\", \"multiprocessors\": %d, \"l2_mb\": %d, \"cuda\": %d}\n",
              properties.name, properties.multiProcessorCount, properties.l2CacheSize >> 20,
              runtime);
}

}  // namespace penstock::bench
