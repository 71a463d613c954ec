// StepGraphs: what was enqueued for a key, kept as a CUDA graph and launched again as one. Kernels
// that were launched programmatically dependent are so in the graph as well. Graphs are kept until
// Freeze(): instantiating one takes memory of the GPU and time.
// One thread, one stream at a time. Errors: a failed CUDA call ends the process.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

#include "absl/container/flat_hash_map.h"

namespace penstock::cuda {

class StepGraphs {
 public:
  StepGraphs() = default;
  // REQUIRES: none of them runs.
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  // Enqueues what `enqueue` does for this key, which is always the same, with the same arguments:
  // from the graph, or where there is none by calling it, and then once more to capture the graph.
  // REQUIRES: while it is captured `enqueue` neither waits nor allocates.
  void Run(cudaStream_t stream, int64_t key, const std::function<void()>& enqueue);
  // No graph is made from now on.
  void Freeze() { frozen_ = true; }

  // What there is, and what it took.
  int64_t count() const { return static_cast<int64_t>(graphs_.size()); }
  // Where a kernel may begin before the one ahead of it ends.
  int64_t programmatic_edges() const { return programmatic_edges_; }
  int64_t bytes() const { return bytes_; }  // of the GPU
  int64_t make_ns() const { return make_ns_; }

 private:
  cudaGraphExec_t Capture(cudaStream_t stream, const std::function<void()>& enqueue);

  absl::flat_hash_map<int64_t, cudaGraphExec_t> graphs_;
  bool frozen_ = false;
  int64_t programmatic_edges_ = 0;
  int64_t bytes_ = 0;
  int64_t make_ns_ = 0;
};

}  // namespace penstock::cuda
