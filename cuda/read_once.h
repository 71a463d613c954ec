// ReadOnce: while it lives, what kernels of a stream read of a stretch of memory is the first to
// leave level 2 (CUDA programming guide, "L2 Access Properties": streaming). Work that a graph
// captures keeps it. A kernel whose loads name a policy of their own goes by that.
// Thread rule: that of the stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace penstock::cuda {

int ReadOnceBits();  // experiment

class ReadOnce {
 public:
  ReadOnce(cudaStream_t stream, const void* begin, int64_t bytes);
  ~ReadOnce();
  ReadOnce(const ReadOnce&) = delete;
  ReadOnce& operator=(const ReadOnce&) = delete;

 private:
  const cudaStream_t stream_;
};

}  // namespace penstock::cuda
