#include "cuda/read_once.h"

#include <algorithm>
#include <cstdlib>

#include "cuda/cuda_check.h"

namespace penstock::cuda {
namespace {

// What one window may cover, on the current device.
size_t MaxWindow() {
  int device = 0;
  int bytes = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxAccessPolicyWindowSize, device));
  return static_cast<size_t>(bytes);
}

void SetWindow(cudaStream_t stream, const void* begin, size_t bytes) {
  cudaStreamAttrValue value = {};
  value.accessPolicyWindow.base_ptr = const_cast<void*>(begin);
  value.accessPolicyWindow.num_bytes = bytes;
  value.accessPolicyWindow.hitRatio = 1;
  value.accessPolicyWindow.hitProp =
      bytes > 0 ? cudaAccessPropertyStreaming : cudaAccessPropertyNormal;
  value.accessPolicyWindow.missProp = cudaAccessPropertyNormal;
  CUDA_CHECK(cudaStreamSetAttribute(stream, cudaStreamAttributeAccessPolicyWindow, &value));
}

}  // namespace

int ReadOnceBits() {
  static const int bits = [] {
    const char* const text = getenv("READ_ONCE");
    return text == nullptr ? 0 : atoi(text);
  }();
  return bits;
}

ReadOnce::ReadOnce(cudaStream_t stream, const void* begin, int64_t bytes) : stream_(stream) {
  SetWindow(stream, begin, std::min(static_cast<size_t>(bytes), MaxWindow()));
}

ReadOnce::~ReadOnce() { SetWindow(stream_, nullptr, 0); }

}  // namespace penstock::cuda
