#include "cuda/open_edges.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "core/base/check.h"
#include "cuda/cuda_check.h"
#include "cuda/skinny_linear.h"

namespace penstock::cuda {
namespace {

constexpr int64_t kMostRows = 256;  // of a step that is a graph (CudaBackend::DecodeSizes)

struct Notes {
  bool taken = false;
  std::vector<cudaGraphNode_t> nodes;
};
thread_local Notes notes;  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)

bool IsKernel(cudaGraphNode_t node) {
  cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
  CUDA_CHECK(cudaGraphNodeGetType(node, &type));
  return type == cudaGraphNodeTypeKernel;
}

}  // namespace

bool EndsWithWrites(int64_t rows) {
  static const bool off = getenv("X_EDGES") != nullptr && atoi(getenv("X_EDGES")) == 0;
  if (off) return false;
  return rows > kSkinnyTokens && rows <= kMostRows;
}

void NoteEndsWithWrites(cudaStream_t stream) {
  if (!notes.taken) return;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaGraphNode_t* last = nullptr;
  const cudaGraphEdgeData* edges = nullptr;
  size_t count = 0;
  CUDA_CHECK(cudaStreamGetCaptureInfo(stream, &status, nullptr, nullptr, &last, &edges, &count));
  PENSTOCK_CHECK(status == cudaStreamCaptureStatusActive);
  PENSTOCK_CHECK_EQ(count, size_t{1});
  notes.nodes.push_back(last[0]);
}

void BeginNotes() { notes = {true, {}}; }

void OpenEdges(cudaGraph_t graph) {
  const std::vector<cudaGraphNode_t> noted = std::move(notes.nodes);
  notes = {};
  size_t count = 0;
  CUDA_CHECK(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &count));
  std::vector<cudaGraphNode_t> from(count);
  std::vector<cudaGraphNode_t> to(count);
  std::vector<cudaGraphEdgeData> edges(count);
  CUDA_CHECK(cudaGraphGetEdges(graph, from.data(), to.data(), edges.data(), &count));
  for (size_t i = 0; i < count; ++i) {
    if (edges[i].type == cudaGraphDependencyTypeProgrammatic || !IsKernel(to[i]) ||
        std::find(noted.begin(), noted.end(), from[i]) == noted.end()) {
      continue;
    }
    CUDA_CHECK(cudaGraphRemoveDependencies(graph, &from[i], &to[i], &edges[i], 1));
    cudaGraphEdgeData edge = {};
    edge.from_port = cudaGraphKernelNodePortProgrammatic;
    edge.type = cudaGraphDependencyTypeProgrammatic;
    CUDA_CHECK(cudaGraphAddDependencies(graph, &from[i], &to[i], &edge, 1));
  }
}

}  // namespace penstock::cuda
