#include "cuda/step_graphs.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "cuda/cuda_check.h"

namespace penstock::cuda {
namespace {

int64_t FreeBytes() {
  size_t free = 0;
  size_t total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

int64_t ProgrammaticEdges(cudaGraph_t graph) {
  size_t count = 0;
  CUDA_CHECK(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &count));
  std::vector<cudaGraphNode_t> from(count);
  std::vector<cudaGraphNode_t> to(count);
  std::vector<cudaGraphEdgeData> edges(count);
  CUDA_CHECK(cudaGraphGetEdges(graph, from.data(), to.data(), edges.data(), &count));
  return std::count_if(edges.begin(), edges.end(), [](const cudaGraphEdgeData& edge) {
    return edge.type == cudaGraphDependencyTypeProgrammatic;
  });
}

}  // namespace

StepGraphs::~StepGraphs() {
  for (const auto& [key, graph] : graphs_) CUDA_CHECK(cudaGraphExecDestroy(graph));
}

cudaGraphExec_t StepGraphs::Capture(cudaStream_t stream, const std::function<void()>& enqueue) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  // Other threads may do what they like meanwhile.
  CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue();
  CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  CUDA_CHECK(cudaGraphInstantiate(&ready, graph, 0));
  programmatic_edges_ += ProgrammaticEdges(graph);
  {
    size_t count = 0;
    CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &count));
    std::vector<cudaGraphNode_t> nodes(count);
    CUDA_CHECK(cudaGraphGetNodes(graph, nodes.data(), &count));
    int windows = 0;
    int kernels = 0;
    for (cudaGraphNode_t node : nodes) {
      cudaGraphNodeType type;
      CUDA_CHECK(cudaGraphNodeGetType(node, &type));
      if (type != cudaGraphNodeTypeKernel) continue;
      ++kernels;
      cudaKernelNodeAttrValue value = {};
      CUDA_CHECK(cudaGraphKernelNodeGetAttribute(
          node, cudaLaunchAttributeAccessPolicyWindow, &value));
      windows += value.accessPolicyWindow.num_bytes > 0;
    }
    fprintf(stderr, "graph: %d kernels, %d with a window\n", kernels, windows);
  }
  CUDA_CHECK(cudaGraphDestroy(graph));
  CUDA_CHECK(cudaGraphUpload(ready, stream));
  return ready;
}

void StepGraphs::Run(cudaStream_t stream, int64_t key, const std::function<void()>& enqueue) {
  if (const auto found = graphs_.find(key); found != graphs_.end()) {
    CUDA_CHECK(cudaGraphLaunch(found->second, stream));
    return;
  }
  enqueue();
  if (frozen_) return;
  // What the first call had to load or choose is there, so the second only enqueues.
  CUDA_CHECK(cudaStreamSynchronize(stream));
  const int64_t free = FreeBytes();
  const auto start = std::chrono::steady_clock::now();
  graphs_[key] = Capture(stream, enqueue);
  CUDA_CHECK(cudaStreamSynchronize(stream));
  make_ns_ += std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
  bytes_ += free - FreeBytes();
}

}  // namespace penstock::cuda
