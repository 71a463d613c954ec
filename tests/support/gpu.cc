#include "tests/support/gpu.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <map>
#include <span>

#include "cuda/blas.h"
#include "cuda/cuda_allocator.h"
#include "cuda/cuda_check.h"
#include "cuda/sampling_buffer.h"
#include "cuda/stream.h"

namespace penstock::testing {
namespace {

struct Copy {
  void* device;
  void* host;
  size_t bytes;
  bool back;
};

// From the first element to behind the last, the gaps between strided rows included.
size_t Extent(const Tensor& tensor) {
  const int64_t element = Info(tensor.type()).block_bytes;
  if (tensor.is_contiguous()) return static_cast<size_t>(tensor.bytes());
  return static_cast<size_t>(((tensor.dim(0) - 1) * tensor.stride(0) + tensor.dim(1)) * element);
}

}  // namespace

struct GpuCall::State {
  CudaStream stream;
  std::map<const void*, Copy> copies;
};

bool GpuCall::Available() {
  static const bool available = [] {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    static_cast<void>(cudaGetLastError());
    if (error == cudaSuccess && count > 0) return true;
    std::printf("no GPU (%s): only the CPU twins are tested\n", cudaGetErrorString(error));
    return false;
  }();
  return available;
}

int64_t GpuCall::BytesInUse() {
  size_t free = 0;
  size_t total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(total - free);
}

GpuCall::GpuCall() : state_(std::make_unique<State>()) {}

GpuCall::~GpuCall() {
  state_->stream.Synchronize();
  for (const auto& [host, copy] : state_->copies) {
    if (copy.back) {
      CUDA_CHECK(cudaMemcpy(copy.host, copy.device, copy.bytes, cudaMemcpyDeviceToHost));
    }
    CUDA_CHECK(cudaFree(copy.device));
  }
}

CUstream_st* GpuCall::stream() const { return state_->stream.get(); }

cuda::Blas& GpuCall::blas() const {
  static cuda::Blas& blas = *new cuda::Blas();  // lives on: its end would outlast CUDA's
  return blas;
}

cuda::SamplingBuffer& GpuCall::sampling() const {
  static cuda::SamplingBuffer& buffer = *[] {
    auto memory = MakeCudaAllocator(0);
    PENSTOCK_CHECK(memory.ok());
    auto made = cuda::SamplingBuffer::Make(131072, *memory->release());
    PENSTOCK_CHECK(made.ok());
    return made->release();
  }();
  return buffer;
}

Tensor GpuCall::In(const Tensor& host) const {
  Copy& copy = state_->copies[host.raw()];
  if (copy.device == nullptr) {
    copy = {nullptr, const_cast<void*>(host.raw()), Extent(host), false};
    CUDA_CHECK(cudaMalloc(&copy.device, copy.bytes));
    CUDA_CHECK(cudaMemcpy(copy.device, copy.host, copy.bytes, cudaMemcpyHostToDevice));
    // From pageable memory it may return while the last of it is still under way, and this object's
    // stream does not wait for the default one.
    CUDA_CHECK(cudaStreamSynchronize(nullptr));
  }
  if (host.is_contiguous()) {
    return Tensor::Borrow(copy.device, host.type(), host.shape(), Device::kCuda);
  }
  // A view of columns: made again from the whole rows that its stride implies.
  const Tensor rows =
      Tensor::Borrow(copy.device, host.type(), {host.dim(0), host.stride(0)}, Device::kCuda);
  return rows.Columns(0, host.dim(1));
}

Tensor GpuCall::Out(const Tensor& host) const {
  const Tensor device = In(host);
  state_->copies[host.raw()].back = true;
  return device;
}

}  // namespace penstock::testing
