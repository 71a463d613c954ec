// WeightUpload: weights from the host into a GPU's memory and into one element type. Threads of the
// host each read a part of a weight, as the file has it, into a pinned buffer, and start its copy;
// what is of another type, quantized or plain, is turned on the GPU (core/kernels/dequantize.h) on
// its way from a staging buffer to its place. No thread waits for another before the weight's end.
// The time is what reading and copying take beside each other, and no weight is on the host as a
// whole but where a file is mapped. One thread at a time. Errors: a failed copy ends the process.
#pragma once

#include <deque>
#include <mutex>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/io/weight_stream.h"
#include "cuda/stream.h"

namespace penstock::cuda {

// The pinned buffers that weights pass through. The defaults are measured
// (tests/bench/results/2026-11-30_load.md).
struct UploadRing {
  int threads = 0;             // 0: one a core
  int buffers_per_thread = 2;  // one that it fills, others that are copied or wait for it; >= 2
  // Small enough that threads come to a weight's end together, large enough to read and to copy. A
  // multiple of 256 that holds a block of any type.
  int64_t buffer_bytes = int64_t{1} << 20;
  int lanes = 1;  // streams with a staging buffer each, among which buffers are shared out
};

class WeightUpload {
 public:
  // On the current device. `type`: f32, f16 or bf16.
  WeightUpload(DataType type, BaseAllocator& device_memory, const UploadRing& ring);
  // Waits for all copies: what has been uploaded can be read from here on.
  ~WeightUpload();
  WeightUpload(const WeightUpload&) = delete;
  WeightUpload& operator=(const WeightUpload&) = delete;

  // The tensor on the GPU, whose copy may still be under way; the host's has been read. The first
  // weight of another type takes lanes * buffer_bytes of the device's memory for as long as this
  // object is there. Errors: the allocator's.
  absl::StatusOr<Tensor> Upload(const WeightStream& host);

 private:
  struct Lane {
    std::mutex mutex;
    CudaStream stream;  // guarded by mutex
    int64_t index = 0;
  };
  struct Buffer {
    uint8_t* pinned = nullptr;
    Lane* lane = nullptr;
    CudaEvent copied;
  };

  // The one that has waited longest, once its copy is done.
  Buffer* Take();
  // Starts the way of what the buffer holds, `count` elements of a type, to their place, after
  // which the buffer can be taken again.
  void Send(Buffer* buffer, DataType stored, int64_t count, void* place);

  const DataType type_;
  const UploadRing ring_;
  BaseAllocator& device_memory_;
  int device_ = 0;
  ThreadPool pool_;
  uint8_t* pinned_ = nullptr;  // of all buffers
  std::vector<Buffer> buffers_;
  Tensor staging_;  // u8 [lanes, buffer_bytes], or empty

  std::deque<Lane> lanes_;
  std::mutex mutex_;
  std::deque<Buffer*> queue_;  // guarded by mutex_; those that no thread has
};

}  // namespace penstock::cuda
