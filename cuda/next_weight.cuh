// The weight of the product that comes next, as kernels before it see it: small ones, which leave
// device memory idle while they wait for each other, ask for its beginning into level 2.
// cuBLASLt's kernels begin when the one before has ended and read every row of the weight from its
// first element on, so the beginning is that of each row.
#pragma once

#include <algorithm>

#include "core/tensor/tensor.h"
#include "cuda/bulk_copy.cuh"

namespace penstock::cuda {

struct NextWeight {
  const uint8_t* data = nullptr;  // nullptr: none
  int64_t rows = 0;
  int64_t stride = 0;  // bytes from row to row
  unsigned bytes = 0;  // of each, a multiple of 16
};

// What is read in the few microseconds of a small kernel, and no more: bytes on their way to level
// 2 hold up what the kernel itself reads.
inline NextWeight BeginningOf(const Tensor& weight) {
  constexpr int64_t kBytes = int64_t{12} << 20;
  constexpr int64_t kLine = 128;
  if (weight.empty() || weight.rank() != 2 || weight.dim(0) == 0) return {};
  const int64_t row_bytes = weight.bytes() / weight.dim(0);
  const int64_t bytes = std::min(row_bytes, kBytes / weight.dim(0)) / kLine * kLine;
  if (bytes == 0 || row_bytes % 16 != 0 || reinterpret_cast<uintptr_t>(weight.raw()) % 16 != 0) {
    return {};
  }
  return {static_cast<const uint8_t*>(weight.raw()), weight.dim(0), row_bytes,
          static_cast<unsigned>(bytes)};
}

// By all threads of the grid, none of which waits.
__device__ __forceinline__ void Prefetch(const NextWeight& next) {
  if (next.data == nullptr) return;
  const int64_t blocks = int64_t{gridDim.x} * gridDim.y;
  const int64_t block = int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
  for (int64_t row = block * blockDim.x + threadIdx.x; row < next.rows;
       row += blocks * blockDim.x) {
    BulkPrefetch(next.data + row * next.stride, next.bytes);
  }
}

}  // namespace penstock::cuda
