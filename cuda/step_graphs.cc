#include "cuda/step_graphs.h"

#include <chrono>

#include "cuda/cuda_check.h"

namespace penstock::cuda {
namespace {

int64_t FreeBytes() {
  size_t free = 0;
  size_t total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

cudaGraphExec_t Capture(cudaStream_t stream, const std::function<void()>& enqueue) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  // Other threads may do what they like meanwhile.
  CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue();
  CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  CUDA_CHECK(cudaGraphInstantiate(&ready, graph, 0));
  CUDA_CHECK(cudaGraphDestroy(graph));
  CUDA_CHECK(cudaGraphUpload(ready, stream));
  return ready;
}

}  // namespace

StepGraphs::~StepGraphs() {
  for (const auto& [key, graph] : graphs_) CUDA_CHECK(cudaGraphExecDestroy(graph));
}

void StepGraphs::Run(const CudaStream& stream, int64_t key, const std::function<void()>& enqueue) {
  if (const auto found = graphs_.find(key); found != graphs_.end()) {
    CUDA_CHECK(cudaGraphLaunch(found->second, stream.get()));
    return;
  }
  enqueue();
  if (frozen_) return;
  // What the first call had to load or choose is there, so the second only enqueues.
  stream.Synchronize();
  const int64_t free = FreeBytes();
  const auto start = std::chrono::steady_clock::now();
  graphs_[key] = Capture(stream.get(), enqueue);
  stream.Synchronize();
  make_ns_ += std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
  bytes_ += free - FreeBytes();
}

}  // namespace penstock::cuda
