// PinnedMemory: the host's memory that a GPU reads and writes where it is, over the bus: for the
// few bytes that a step gives out, which are there once its kernels are done, without a copy.
// Thread-safe.
#pragma once

#include <cstdint>

#include "core/tensor/allocator.h"
#include "core/tensor/tensor.h"

namespace penstock::cuda {

class PinnedMemory final : public BaseAllocator {
 public:
  // Cleared. Errors: RESOURCE_EXHAUSTED.
  absl::StatusOr<void*> Allocate(int64_t bytes) override;
  void Free(void* data, int64_t bytes) override;
  Device device() const override { return Device::kCpu; }

  // As kernels see a tensor in it: at the same address.
  static Tensor OnDevice(const Tensor& host);
};

}  // namespace penstock::cuda
