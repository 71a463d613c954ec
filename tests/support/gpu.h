// Device copies of host tensors for one call of a launcher. Only in builds with CUDA (gpu.cc); no
// CUDA header is needed to include it. One thread.
#pragma once

#include <memory>

#include "core/tensor/tensor.h"

struct CUstream_st;

namespace penstock::cuda {
class Blas;
class SamplingBuffer;
}  // namespace penstock::cuda

namespace penstock::testing {

class GpuCall {
 public:
  // Whether this machine has a GPU that can be used; says so once when it has none.
  static bool Available();
  // Memory of the current GPU that is in use, by whomever.
  static int64_t BytesInUse();

  GpuCall();
  // Waits for the stream, and copies what Out() has given out back to the host.
  ~GpuCall();
  GpuCall(const GpuCall&) = delete;
  GpuCall& operator=(const GpuCall&) = delete;

  CUstream_st* stream() const;
  cuda::Blas& blas() const;
  // For vocabularies of up to 131,072.
  cuda::SamplingBuffer& sampling() const;

  // A device tensor with the same shape, strides and bytes; the same one for the same host bytes,
  // so that what overlaps on the host does so on the device. Each has an allocation of its own and
  // ends where its elements end, which shows compute-sanitizer every access outside.
  Tensor In(const Tensor& host) const;
  Tensor Out(const Tensor& host) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace penstock::testing
