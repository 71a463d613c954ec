// Sampling on a backend, from and to tensors of the host.
#pragma once

#include <span>

#include "core/kernels/sampling.h"
#include "tests/support/backends.h"

namespace penstock::testing {

// Expects the logits to be as they were.
inline void SampleOn(Backend backend, const Tensor& logits, std::span<const SamplingRow> rows,
                     const SamplingOutput& out, ThreadPool& pool = Pool()) {
  if (backend == Backend::kCpu) return cpu::Sampling(pool, logits, rows, out);
  if constexpr (kCudaBuilt) {
    const auto bytes = static_cast<size_t>(logits.bytes());
    const auto* data = static_cast<const uint8_t*>(logits.raw());
    const std::vector<uint8_t> before(data, data + bytes);
    {
      const GpuCall gpu;
      const auto back = [&](const Tensor& tensor) {
        return tensor.empty() ? tensor : gpu.Out(tensor);
      };
      cuda::LaunchSampling(
          gpu.sampling(), gpu.stream(), gpu.Out(logits), rows,
          {back(out.tokens), back(out.logprobs), back(out.top_tokens), back(out.top_logprobs)});
    }
    EXPECT_EQ(std::memcmp(before.data(), data, bytes), 0) << "logits have changed";
  }
}

}  // namespace penstock::testing
