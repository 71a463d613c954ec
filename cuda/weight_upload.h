// WeightUpload: weights of the host into a GPU's memory and into one element type: threads of the
// host turn a part into pinned memory while the part before is copied.
// One thread at a time. Errors: a failed copy ends the process.
#pragma once

#include <array>

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"
#include "cuda/stream.h"

namespace penstock::cuda {

class WeightUpload {
 public:
  // On the current device. `type`: f32, f16 or bf16. `threads`: 0, one a core.
  WeightUpload(DataType type, BaseAllocator& device_memory, int threads);
  ~WeightUpload();
  WeightUpload(const WeightUpload&) = delete;
  WeightUpload& operator=(const WeightUpload&) = delete;

  // The tensor on the GPU; the copy is done. `host` is dense, of any type that weights have.
  // Errors: the allocator's.
  absl::StatusOr<Tensor> Upload(const Tensor& host);

 private:
  // Elements [first, first + count) of `host` as the type, into `out`.
  void Turn(const Tensor& host, int64_t first, int64_t count, uint8_t* out);

  struct Part {
    uint8_t* pinned = nullptr;
    CudaEvent copied;
  };

  const DataType type_;
  BaseAllocator& device_memory_;
  ThreadPool pool_;
  CudaStream stream_;
  std::array<Part, 2> parts_;
};

}  // namespace penstock::cuda
