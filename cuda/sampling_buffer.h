// SamplingBuffer: carries what sampling is told of its rows from the host to the device: two pinned
// buffers in turn, so that the host writes one while a kernel reads the other. Kernels read the few
// bytes of a task where they are, so nothing stands between the logits and their sampling; edits
// are copied, where there are any. Steps of the contract (core/kernels/sampling.h) that need the
// history, which is on the host, are decided here: whether stop ids are masked, which bad words are
// begun. Nothing is allocated after it is made.
// One thread, one stream at a time. Errors: a failed CUDA call ends the process.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/kernels/sampling.h"
#include "cuda/sampling_task.h"
#include "cuda/stream.h"

namespace penstock::cuda {

class SamplingBuffer {
 public:
  // On the current device, whose memory `memory` has, for rows over a vocabulary of that size.
  // Errors: the allocator's.
  static absl::StatusOr<std::unique_ptr<SamplingBuffer>> Make(int64_t vocab_size,
                                                              BaseAllocator& memory);
  ~SamplingBuffer();
  SamplingBuffer(const SamplingBuffer&) = delete;
  SamplingBuffer& operator=(const SamplingBuffer&) = delete;

  // Where a kernel finds what was put last.
  struct Staged {
    int64_t num_rows;
    const SamplingTask* tasks;  // on the host: to be read once
    const LogitEdit* edits;
    float* saved;  // room for one logit an edit
  };
  // Takes as many of the first rows as there is room for, one at least. Waits only if the kernel
  // before the last has not read its own. REQUIRES: ids of the vocabulary.
  Staged Put(cudaStream_t stream, std::span<const SamplingRow> rows);
  // The kernel that reads what was put is in the stream. Once after each Put.
  void Release(cudaStream_t stream);

 private:
  explicit SamplingBuffer(int64_t vocab_size);
  struct Half {
    uint8_t* host = nullptr;  // tasks, then edits
    CudaEvent read;           // by the kernel that it was for
  };
  // Appends the row's edits; false if there is no room for them.
  bool AppendEdits(const SamplingRow& row, LogitEdit* edits, int64_t room, SamplingTask* task);

  const int64_t vocab_size_;
  const int64_t max_edits_;
  int64_t num_edits_ = 0;
  std::array<Half, 2> halves_;
  size_t next_ = 0;
  Tensor edits_;                 // u8: [max_edits] LogitEdit on the device
  Tensor saved_;                 // [max_edits] f32
  std::vector<bool> is_masked_;  // by token, of the row at hand
};

}  // namespace penstock::cuda
