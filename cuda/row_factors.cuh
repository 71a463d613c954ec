// DeferredNorm (deferred_norm.h) on the device.
#pragma once

#include "cuda/deferred_norm.h"
#include "cuda/launch.h"

namespace penstock::cuda {

struct RowFactors {
  const float* squares;  // null: every factor is 1
  int parts;
  float features;
  float eps;

  // A token's. Four lanes behind each other call it for one token, once the inputs are there; a
  // whole warp takes part.
  __device__ __forceinline__ float Of(int token, int num_tokens) const {
    if (squares == nullptr) return 1.0f;
    const auto* of = reinterpret_cast<const float4*>(squares + int64_t{token} * parts);
    float sum = 0;
    if (token < num_tokens) {
#pragma unroll 8
      for (int i = static_cast<int>(threadIdx.x) % 4; i < parts / 4; i += 4) {
        const float4 four = of[i];
        sum += (four.x + four.y) + (four.z + four.w);
      }
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    return 1.0f / sqrtf(sum / features + eps);
  }
};

inline RowFactors MakeRowFactors(const DeferredNorm& norm, int64_t num_tokens) {
  if (norm.squares.empty()) return {};
  PENSTOCK_CHECK_EQ(norm.squares.dim(0), num_tokens);
  PENSTOCK_CHECK(norm.squares.is_contiguous() && IsWide(norm.squares, norm.squares.dim(1)));
  return {Elements<const float>(norm.squares), static_cast<int>(norm.squares.dim(1)),
          static_cast<float>(norm.features), norm.eps};
}

}  // namespace penstock::cuda
