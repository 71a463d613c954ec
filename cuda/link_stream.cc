#include "cuda/link_stream.h"

#include <cuda_runtime_api.h>

#include <optional>

#include "cuda/cuda_allocator.h"
#include "cuda/cuda_check.h"
#include "cuda/stream.h"

namespace penstock {
namespace {

class CudaLinkStream final : public LinkStream {
 public:
  CudaLinkStream(int ordinal, void* scratch, int64_t scratch_bytes)
      : ordinal_(ordinal), scratch_(static_cast<std::byte*>(scratch)), bytes_(scratch_bytes) {
    stream_.emplace();
    mark_.emplace();
  }
  ~CudaLinkStream() override {
    Use();
    mark_.reset();
    stream_.reset();
    const cudaError_t error = cudaFree(scratch_);
    if (error != cudaErrorCudartUnloading) CUDA_CHECK(error);
  }
  void* handle() const override { return stream_->get(); }
  void Use() override {
    const cudaError_t error = cudaSetDevice(ordinal_);
    if (error != cudaErrorCudartUnloading) CUDA_CHECK(error);
  }
  void Mark() override { stream_->Record(*mark_); }
  bool IsDone() override { return mark_->IsDone(); }
  std::byte* scratch() override { return scratch_; }
  int64_t scratch_bytes() const override { return bytes_; }

 private:
  const int ordinal_;
  std::byte* const scratch_;
  const int64_t bytes_;
  std::optional<CudaStream> stream_;
  std::optional<CudaEvent> mark_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LinkStream>> MakeCudaLinkStream(int ordinal, int64_t scratch_bytes) {
  PENSTOCK_RETURN_IF_ERROR(OpenGpu(ordinal));
  void* scratch = nullptr;
  const cudaError_t error = cudaMalloc(&scratch, static_cast<size_t>(scratch_bytes));
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    return absl::ResourceExhaustedError(
        absl::StrCat("GPU ", ordinal, " has no room for ", scratch_bytes,
                     " bytes: end the programs that use it, or lower --kv-memory-mib"));
  }
  CUDA_CHECK(error);
  return std::make_unique<CudaLinkStream>(ordinal, scratch, scratch_bytes);
}

}  // namespace penstock
