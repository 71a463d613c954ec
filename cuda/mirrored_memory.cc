#include "cuda/mirrored_memory.h"

#include <algorithm>
#include <cstring>

#include "core/base/check.h"
#include "cuda/cuda_check.h"

namespace penstock::cuda {

MirroredMemory::~MirroredMemory() { PENSTOCK_CHECK(blocks_.empty()); }

absl::StatusOr<void*> MirroredMemory::Allocate(int64_t bytes) {
  void* host = nullptr;
  const cudaError_t error = cudaMallocHost(&host, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    return absl::ResourceExhaustedError(
        absl::StrCat("the host has no ", bytes, " bytes of pinned memory: end other programs"));
  }
  CUDA_CHECK(error);
  absl::StatusOr<void*> device = device_memory_.Allocate(bytes);
  if (!device.ok()) {
    CUDA_CHECK(cudaFreeHost(host));
    return device.status();
  }
  std::memset(host, 0, static_cast<size_t>(bytes));
  blocks_.push_back({static_cast<uint8_t*>(host), static_cast<uint8_t*>(*device), bytes});
  return host;
}

void MirroredMemory::Free(void* data, int64_t bytes) {
  const auto block = std::find_if(blocks_.begin(), blocks_.end(),
                                  [data](const Block& one) { return one.host == data; });
  PENSTOCK_CHECK(block != blocks_.end());
  PENSTOCK_CHECK_EQ(block->bytes, bytes);
  CUDA_CHECK(cudaFreeHost(block->host));
  device_memory_.Free(block->device, bytes);
  blocks_.erase(block);
}

const MirroredMemory::Block* MirroredMemory::Find(const void* host) const {
  const auto* place = static_cast<const uint8_t*>(host);
  for (const Block& block : blocks_) {
    if (place >= block.host && place < block.host + block.bytes) return &block;
  }
  return nullptr;
}

Tensor MirroredMemory::OnDevice(const Tensor& host) const {
  const Block* const block = Find(host.raw());
  PENSTOCK_CHECK(block != nullptr && host.is_contiguous());
  const int64_t offset = static_cast<const uint8_t*>(host.raw()) - block->host;
  return Tensor::Borrow(block->device + offset, host.type(), host.shape(), Device::kCuda);
}

void MirroredMemory::CopyToDevice(cudaStream_t stream) const {
  for (const Block& block : blocks_) {
    CUDA_CHECK(cudaMemcpyAsync(block.device, block.host, static_cast<size_t>(block.bytes),
                               cudaMemcpyHostToDevice, stream));
  }
}

void MirroredMemory::CopyToHost(cudaStream_t stream) const {
  for (const Block& block : blocks_) {
    CUDA_CHECK(cudaMemcpyAsync(block.host, block.device, static_cast<size_t>(block.bytes),
                               cudaMemcpyDeviceToHost, stream));
  }
}

}  // namespace penstock::cuda
