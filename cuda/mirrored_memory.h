// MirroredMemory: blocks that are there twice, pinned on the host and on the GPU, and are copied
// whole from the one to the other: what a step takes in, or what it gives out. One thread at a
// time. Errors: a failed copy ends the process.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "core/tensor/allocator.h"
#include "core/tensor/tensor.h"

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

  // Enqueue the copies of all blocks.
  void CopyToDevice(cudaStream_t stream) const;
  void CopyToHost(cudaStream_t stream) const;

 private:
  struct Block {
    uint8_t* host;
    uint8_t* device;
    int64_t bytes;
  };
  const Block* Find(const void* host) const;

  BaseAllocator& device_memory_;
  std::vector<Block> blocks_;  // a few
};

}  // namespace penstock::cuda
