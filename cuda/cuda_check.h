// A CUDA error ends the process: it prints expression, error and place, and aborts. Whoever talks
// to this process sees a dead peer, which is the one way that a failed device is reported.
// Thread-safe.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "core/base/check.h"

namespace penstock {

static_assert(__cplusplus >= 202002L, "not compiled as C++20: see cmake/Cuda.cmake");

inline void CheckCuda(cudaError_t error, const char* what, const char* file, int line) {
  if (error != cudaSuccess) [[unlikely]] {
    std::string message = what;
    message.append(": ")
        .append(cudaGetErrorName(error))
        .append(": ")
        .append(cudaGetErrorString(error));
    CheckFailed(file, line, message);
  }
}

}  // namespace penstock

// CUDA_CHECK(cudaMemcpyAsync(...));
#define CUDA_CHECK(...) ::penstock::CheckCuda((__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)

// CUDA_CHECK_LAUNCH(RmsNormKernel<float>); right after the launch of that kernel. It sees a launch
// that was refused; what the kernel itself does wrong shows at the next synchronisation.
#define CUDA_CHECK_LAUNCH(...) \
  ::penstock::CheckCuda(cudaGetLastError(), "launch of " #__VA_ARGS__, __FILE__, __LINE__)
