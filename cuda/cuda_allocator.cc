#include "cuda/cuda_allocator.h"

#include <cuda_runtime_api.h>

#include <string>
#include <utility>

#include "core/tensor/guarded_raw.h"
#include "cuda/cuda_check.h"

namespace penstock {
namespace {

class CudaRawAllocator final : public RawAllocator {
 public:
  explicit CudaRawAllocator(int ordinal) : ordinal_(ordinal) {}

  void* Allocate(int64_t bytes) override {
    CUDA_CHECK(cudaSetDevice(ordinal_));
    void* data = nullptr;
    const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(bytes));
    if (error == cudaErrorMemoryAllocation) {
      // Take it off the thread's last error, or the next check of a launch would report it.
      static_cast<void>(cudaGetLastError());
      return nullptr;
    }
    CUDA_CHECK(error);
    return data;
  }

  void Free(void* data) override {
    CUDA_CHECK(cudaSetDevice(ordinal_));
    CUDA_CHECK(cudaFree(data));
  }

  Device device() const override { return Device::kCuda; }
  std::string name() const override { return absl::StrCat("GPU ", ordinal_); }

 private:
  const int ordinal_;
};

// Waits for the device: a mistake may still be on its way.
GuardedRaw::Access ZoneAccess(int ordinal) {
  GuardedRaw::Access access;
  access.fill = [ordinal](void* data, uint8_t value, int64_t bytes) {
    CUDA_CHECK(cudaSetDevice(ordinal));
    CUDA_CHECK(cudaMemset(data, value, static_cast<size_t>(bytes)));
    CUDA_CHECK(cudaDeviceSynchronize());
  };
  access.read = [ordinal](const void* data, uint8_t* host, int64_t bytes) {
    CUDA_CHECK(cudaSetDevice(ordinal));
    CUDA_CHECK(cudaDeviceSynchronize());
    CUDA_CHECK(cudaMemcpy(host, data, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost));
  };
  return access;
}

}  // namespace

absl::Status FindGpu(int ordinal) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) {
    static_cast<void>(cudaGetLastError());
    return absl::FailedPreconditionError(
        absl::StrCat("GPU ", ordinal, " cannot be used: ", cudaGetErrorString(error),
                     "; install a GPU and a driver that fits, or run on the CPU"));
  }
  CUDA_CHECK(error);
  if (ordinal < 0 || ordinal >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no GPU ", ordinal, ": this process sees ", count,
                     ", counted from 0; choose one of them (CUDA_VISIBLE_DEVICES may hide some)"));
  }
  return absl::OkStatus();
}

absl::Status OpenGpu(int ordinal) {
  PENSTOCK_RETURN_IF_ERROR(FindGpu(ordinal));
  const cudaError_t error = cudaSetDevice(ordinal);
  if (error == cudaErrorMemoryAllocation || error == cudaErrorDevicesUnavailable) {
    static_cast<void>(cudaGetLastError());
    return absl::ResourceExhaustedError(
        absl::StrCat("GPU ", ordinal, " cannot be opened: ", cudaGetErrorString(error),
                     "; end the programs that use it, or choose another GPU"));
  }
  CUDA_CHECK(error);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PoolAllocator>> MakeCudaAllocator(int ordinal,
                                                                 const PoolOptions& options) {
  PENSTOCK_RETURN_IF_ERROR(OpenGpu(ordinal));
  std::unique_ptr<RawAllocator> raw = std::make_unique<CudaRawAllocator>(ordinal);
  if (options.exact) raw = std::make_unique<GuardedRaw>(std::move(raw), ZoneAccess(ordinal));
  return std::make_unique<PoolAllocator>(std::move(raw), options);
}

}  // namespace penstock
