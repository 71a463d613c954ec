#include <limits>

#include "core/kernels/mask_scale_softmax.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

// Four places belong to one thread whether they are loaded at once or not, so that a row's bits do
// not depend on whether max_k lets them.
constexpr int kPlaces = 4;

template <typename T, bool kAligned>
__device__ Pack<T, kPlaces> LoadPlaces(const T* row, int64_t at, int64_t count, T missing) {
  Pack<T, kPlaces> pack;
  if constexpr (kAligned) {
    pack = reinterpret_cast<const Pack<T, kPlaces>*>(row)[at / kPlaces];
  } else {
#pragma unroll
    for (int j = 0; j < kPlaces; ++j) pack.at[j] = at + j < count ? row[at + j] : missing;
  }
  return pack;
}

// A block a query. The row comes from device memory once; the second and third reading hit the
// first-level cache or level 2.
template <typename T, bool kAligned>
__global__ void MaskScaleSoftmaxKernel(T* scores, const uint8_t* mask, int64_t heads, int64_t max_q,
                                       int64_t max_k, float scale) {
  LetNextBegin();
  WaitForInputs();
  const int64_t line = blockIdx.x;
  T* row = scores + line * max_k;
  const uint8_t* seen = mask + (line / max_q / heads * max_q + line % max_q) * max_k;
  const auto for_each = [&](const auto& body) {
    for (int64_t at = int64_t{threadIdx.x} * kPlaces; at < max_k; at += blockDim.x * kPlaces) {
      const Pack<uint8_t, kPlaces> sees = LoadPlaces<uint8_t, kAligned>(seen, at, max_k, 0);
      const Pack<T, kPlaces> values = LoadPlaces<T, kAligned>(row, at, max_k, FromFloat<T>(0.0f));
      body(at, sees, values);
    }
  };
  float top = -INFINITY;
  for_each([&](int64_t, const auto& sees, const auto& values) {
#pragma unroll
    for (int j = 0; j < kPlaces; ++j) {
      if (sees.at[j] != 0) top = fmaxf(top, ToFloat(values.at[j]) * scale);
    }
  });
  top = BlockReduce(top, -INFINITY, Max());
  float sum = 0;
  for_each([&](int64_t, const auto& sees, const auto& values) {
#pragma unroll
    for (int j = 0; j < kPlaces; ++j) {
      if (sees.at[j] != 0) sum += __expf(ToFloat(values.at[j]) * scale - top);
    }
  });
  sum = BlockReduce(sum, 0.0f, Sum());
  // A query that sees nothing has no sum; whoever sees something has exp(0) in it.
  const float inverse = sum == 0 ? 0.0f : 1.0f / sum;
  for_each([&](int64_t at, const auto& sees, const auto& values) {
    Pack<T, kPlaces> result;
#pragma unroll
    for (int j = 0; j < kPlaces; ++j) {
      const float value = sees.at[j] == 0 ? 0.0f : __expf(ToFloat(values.at[j]) * scale - top);
      result.at[j] = FromFloat<T>(sees.at[j] == 0 ? 0.0f : value * inverse);
    }
    if constexpr (kAligned) {
      reinterpret_cast<Pack<T, kPlaces>*>(row)[at / kPlaces] = result;
    } else {
#pragma unroll
      for (int j = 0; j < kPlaces; ++j) {
        if (at + j < max_k) row[at + j] = result.at[j];
      }
    }
  });
}

}  // namespace

void LaunchMaskScaleSoftmax(cudaStream_t stream, const Tensor& scores, const Tensor& mask,
                            float scale) {
  const int64_t heads = scores.dim(1);
  const int64_t max_q = scores.dim(2);
  const int64_t max_k = scores.dim(3);
  PENSTOCK_CHECK(mask.shape() == Shape({scores.dim(0), max_q, max_k}));
  PENSTOCK_CHECK(scores.is_contiguous() && mask.is_contiguous());
  PENSTOCK_CHECK_GT(scale, 0.0f);
  const bool aligned = max_k % kPlaces == 0 &&
                       reinterpret_cast<uintptr_t>(scores.raw()) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(mask.raw()) % kPlaces == 0;
  const dim3 grid(Blocks(scores.dim(0) * heads * max_q));
  ForElementType(scores.type(), [&](auto element) {
    using T = decltype(element);
    Launch(stream, {grid, dim3(kThreads)},
           aligned ? MaskScaleSoftmaxKernel<T, true> : MaskScaleSoftmaxKernel<T, false>,
           Elements<T>(scores), Elements<const uint8_t>(mask), heads, max_q, max_k, scale);
  });
}

}  // namespace penstock::cuda
