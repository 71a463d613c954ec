#include "cuda/pinned_memory.h"

#include <cstring>

#include "core/base/check.h"
#include "cuda/cuda_check.h"

namespace penstock::cuda {

absl::StatusOr<void*> PinnedMemory::Allocate(int64_t bytes) {
  void* host = nullptr;
  const cudaError_t error = cudaMallocHost(&host, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    return absl::ResourceExhaustedError(
        absl::StrCat("the host has no ", bytes, " bytes of pinned memory: end other programs"));
  }
  CUDA_CHECK(error);
  std::memset(host, 0, static_cast<size_t>(bytes));
  return host;
}

void PinnedMemory::Free(void* data, int64_t /*bytes*/) { CUDA_CHECK(cudaFreeHost(data)); }

Tensor PinnedMemory::OnDevice(const Tensor& host) {
  PENSTOCK_CHECK(host.is_contiguous());
  return Tensor::Borrow(const_cast<void*>(host.raw()), host.type(), host.shape(), Device::kCuda);
}

}  // namespace penstock::cuda
