// WeightUpload: weights from the host into a GPU's memory and into one element type. Threads each
// read a part of a weight, as the file has it, into the next buffer of a pinned ring; one more
// starts the parts' copies in their order, and alone calls CUDA. What is of another type, quantized
// or plain, or has its rows in another order goes to a staging buffer and is turned from there
// (core/kernels/dequantize.h), a few parts at once, while others are copied. Nobody waits at a
// weight's end: the caller opens and allocates the next ones meanwhile. So the time is what reading
// and copying take beside each other, and no weight is on the host as a whole but where a file is
// mapped.
// One thread at a time. Errors: a failed copy ends the process.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/io/weight_stream.h"
#include "core/tensor/allocator.h"
#include "cuda/stream.h"

namespace penstock::cuda {

// The pinned buffers that weights pass through. The defaults are measured
// (tests/bench/results/2026-11-30_load.md).
struct UploadRing {
  int threads = 0;   // that read; 0: one a core, up to as many as reading needs
  int buffers = 24;  // that are filled, or copied, or wait for it
  // Large enough to read and to copy. A multiple of 256 that holds a block of any type.
  int64_t buffer_bytes = int64_t{1} << 20;
};

class WeightUpload {
 public:
  // On the current device. `type`: f32, f16 or bf16. Returns while the ring is still being made.
  WeightUpload(DataType type, BaseAllocator& device_memory, const UploadRing& ring);
  // Waits for all copies: what has been uploaded can be read from here on.
  ~WeightUpload();
  WeightUpload(const WeightUpload&) = delete;
  WeightUpload& operator=(const WeightUpload&) = delete;

  // The tensor on the GPU, each row where it belongs, which may still have to be read and copied:
  // the stream is kept until then. While two weights wait to be read, this waits. The first weight
  // of another type or order takes 8 * buffer_bytes of the device's memory for as long as this
  // object is there. Errors: the allocator's.
  absl::StatusOr<Tensor> Upload(const WeightStream& host);

 private:
  struct Weight {
    WeightStream host;
    Tensor device;
    int64_t part = 0;  // elements
    int64_t next = 0;  // the first element that nobody reads yet; guarded by mutex_
    bool is_turned = false;
  };
  struct Buffer {
    uint8_t* pinned = nullptr;
    std::shared_ptr<const Weight> weight;  // whose elements [first, first + count) it holds
    int64_t first = 0;
    int64_t count = 0;
    std::atomic<int64_t> parts = 0;  // of all weights, up to this one; once it has been read
    CudaEvent copied;
  };
  // Some parts of a weight, behind each other.
  struct Staging {
    Tensor bytes;  // u8, or empty
    int64_t first = 0;
    int64_t count = 0;
    CudaEvent turned;
  };

  Buffer& BufferOf(int64_t part) { return buffers_[static_cast<size_t>(part) % buffers_.size()]; }
  void ReadParts();
  void MakeRing();
  void SendParts();
  void Send(Buffer& buffer);

  const DataType type_;
  const UploadRing ring_;
  BaseAllocator& device_memory_;
  int device_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;              // weights_ or is_ended_
  std::deque<std::shared_ptr<Weight>> weights_;  // guarded by mutex_: to be read, in order
  int64_t begun_ = 0;                            // guarded by mutex_: parts
  bool is_ended_ = false;                        // guarded by mutex_

  // Part i goes through buffer i % buffers, and may be read into it once i < room_.
  std::vector<Buffer> buffers_;
  std::atomic<int64_t> room_ = 0;
  std::atomic<int64_t> read_ = 0;  // parts, in any order
  std::atomic<bool> all_read_ = false;

  // The sender's.
  uint8_t* pinned_ = nullptr;  // of all buffers
  CudaStream copies_;
  CudaStream turns_;
  std::array<Staging, 2> staging_;
  size_t filled_ = 0;  // which of them is being filled

  std::vector<std::thread> readers_;
  std::thread sender_;
};

}  // namespace penstock::cuda
