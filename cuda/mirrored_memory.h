// MirroredMemory: blocks that are there twice, pinned on the host and on the GPU, and are copied
// from the one to the other: what a step takes in, and rows that it hands on. Parts that are near
// each other go as one copy, with what lies between them. One thread at a time. Errors: a failed
// copy ends the process.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor/allocator.h"
#include "core/tensor/tensor.h"
#include "cuda/pinned_memory.h"

namespace penstock::cuda {

class MirroredMemory final : public BaseAllocator {
 public:
  // `device_memory` has the GPU's halves, and outlives this.
  explicit MirroredMemory(BaseAllocator& device_memory) : device_memory_(device_memory) {}
  // REQUIRES: all was given back.
  ~MirroredMemory() override;

  // The host's half, cleared. On the current device.
  absl::StatusOr<void*> Allocate(int64_t bytes) override;
  void Free(void* data, int64_t bytes) override;
  Device device() const override { return Device::kCpu; }

  // Whether the host's tensor lies in a block of this.
  bool Has(const Tensor& host) const { return Find(host.raw()) != nullptr; }
  // The GPU's half of a dense tensor in one of the blocks.
  Tensor OnDevice(const Tensor& host) const;

  // Enqueues the copies of these parts: the host's tensors, or matrices whose rows are strided.
  void CopyToDevice(cudaStream_t stream, std::span<const Tensor> parts);
  // The other way; each part as it is, dense.
  void CopyToHost(cudaStream_t stream, std::span<const Tensor> parts);

 private:
  struct Block {
    uint8_t* host;
    uint8_t* device;
    int64_t bytes;
  };
  // Rows that are far from each other, or one.
  struct Range {
    const Block* block;
    int64_t begin;  // in the block
    int64_t bytes;  // of a row
    int64_t rows;
    int64_t stride;
  };
  const Block* Find(const void* host) const;
  // Into ranges_.
  void Join(std::span<const Tensor> parts);

  BaseAllocator& device_memory_;
  PinnedMemory host_memory_;
  std::vector<Block> blocks_;  // a few
  std::vector<Range> ranges_;  // of the copies at hand
};

}  // namespace penstock::cuda
