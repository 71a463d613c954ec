// WeightUpload: weights from the host into a GPU's memory and into one element type. Threads of the
// host each read a part of a weight, turn it and leave it in a pinned buffer, whose copy they
// start; no thread waits for another before the weight's end. The slower of the two, reading or the
// bus, is the time that it takes, and no weight is on the host as a whole but where a file is
// mapped. One thread at a time. Errors: a failed copy ends the process.
#pragma once

#include <deque>
#include <mutex>
#include <vector>

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
  struct Buffer {
    uint8_t* pinned = nullptr;
    CudaEvent copied;
  };

  // Elements [first, first + count) of `host` as the type, into `out`.
  void Turn(const WeightStream& host, int64_t first, int64_t count, uint8_t* out) const;
  // The one that has waited longest, once its copy is done.
  Buffer* Take();
  // Starts the copy of `bytes`, after which the buffer can be taken again.
  void Send(Buffer* buffer, int64_t bytes, void* place);

  const DataType type_;
  BaseAllocator& device_memory_;
  int device_ = 0;
  ThreadPool pool_;
  uint8_t* pinned_ = nullptr;  // of all buffers
  std::vector<Buffer> buffers_;

  std::mutex mutex_;
  CudaStream stream_;          // guarded by mutex_
  std::deque<Buffer*> queue_;  // guarded by mutex_; those that no thread has
};

}  // namespace penstock::cuda
