// WeightUpload: weights from the host into a GPU's memory and into one element type. Threads of the
// host read a part of a weight, turn it and leave it in one of a ring of pinned buffers, while the
// parts before it are copied: the slower of the two, reading or the bus, is the time that it takes,
// and no weight is on the host as a whole but where a file is mapped.
// One thread at a time. Errors: a failed copy ends the process.
#pragma once

#include <array>

#include "core/base/thread_pool.h"
#include "core/io/weight_stream.h"
#include "cuda/stream.h"

namespace penstock::cuda {

class WeightUpload {
 public:
  // On the current device. `type`: f32, f16 or bf16. `threads`: 0, one a core.
  WeightUpload(DataType type, BaseAllocator& device_memory, int threads);
  // Waits for all copies: what has been uploaded can be read from here on.
  ~WeightUpload();
  WeightUpload(const WeightUpload&) = delete;
  WeightUpload& operator=(const WeightUpload&) = delete;

  // The tensor on the GPU, whose copy may still be under way; the host's has been read.
  // Errors: the allocator's.
  absl::StatusOr<Tensor> Upload(const WeightStream& host);

 private:
  // Elements [first, first + count) of `host` as the type, into `out`.
  void Turn(const WeightStream& host, int64_t first, int64_t count, uint8_t* out);

  struct Part {
    uint8_t* pinned = nullptr;
    CudaEvent copied;
  };

  const DataType type_;
  BaseAllocator& device_memory_;
  ThreadPool pool_;
  CudaStream stream_;
  std::array<Part, 4> ring_;
  size_t next_ = 0;  // of the ring
};

}  // namespace penstock::cuda
