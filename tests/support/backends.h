// Which backends a kernel test runs its cases on: the CPU twin always, the GPU where the build has
// CUDA and the machine a GPU. A test's RunOn(backend, ...) calls the one or the other:
//
//   void RunOn(Backend backend, const Tensor& x, const Tensor& out) {
//     if (backend == Backend::kCpu) return cpu::Kernel(Pool(), x, out);
//     if constexpr (kCudaBuilt) {
//       const GpuCall gpu;
//       cuda::LaunchKernel(gpu.stream(), gpu.In(x), gpu.Out(out));
//     }
//   }
#pragma once

#include <ostream>
#include <vector>

#include "cuda/kernels/launchers.h"
#include "tests/support/gpu.h"
#include "tests/support/tensors.h"

namespace penstock::testing {

#ifdef PENSTOCK_CUDA
inline constexpr bool kCudaBuilt = true;
#else
inline constexpr bool kCudaBuilt = false;
#endif

enum class Backend : uint8_t { kCpu, kCuda };

// A backend and the element type of the activations there.
struct Target {
  Backend backend;
  DataType type;
};

inline std::ostream& operator<<(std::ostream& out, const Target& target) {
  return out << (target.backend == Backend::kCpu ? "CPU, " : "GPU, ") << Name(target.type);
}

inline std::vector<Backend> Backends() {
  std::vector<Backend> backends = {Backend::kCpu};
  if constexpr (kCudaBuilt) {
    if (GpuCall::Available()) backends.push_back(Backend::kCuda);
  }
  return backends;
}

// The CPU twins compute in f32, the GPU in each of its types.
inline std::vector<Target> Targets() {
  std::vector<Target> targets;
  for (const Backend backend : Backends()) {
    targets.push_back({backend, DataType::kF32});
    if (backend == Backend::kCpu) continue;
    targets.push_back({backend, DataType::kF16});
    targets.push_back({backend, DataType::kBF16});
  }
  return targets;
}

}  // namespace penstock::testing
