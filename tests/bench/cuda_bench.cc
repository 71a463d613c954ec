#include "tests/bench/cuda_bench.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "cuda/cuda_check.h"
#include "cuda/measuring.h"

namespace penstock::bench {

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
  cuda::FillRandom(nullptr, tensor, seed, scale);
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
  return cuda::ProductError(nullptr, x, weight, out, /*rows=*/x.dim(0));
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
