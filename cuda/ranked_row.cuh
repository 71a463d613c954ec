// Ranks of a row's elements, for kernels that pick the largest: keys that sort as the elements do,
// the lower index first among equals; loops over a row by one block; sorting. Nothing here depends
// on the order in which threads run.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"

namespace penstock::cuda {

// Values as integers of the same order; both zeros are one value.
__device__ __forceinline__ uint32_t Ordered(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float Unordered(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

// Larger keys come first: the larger value, then the lower index. No two are equal.
__device__ __forceinline__ uint64_t Key(uint32_t ordered, int32_t index) {
  return uint64_t{ordered} << 32 | ~static_cast<uint32_t>(index);
}
__device__ __forceinline__ int32_t IndexOf(uint64_t key) {
  return static_cast<int32_t>(~static_cast<uint32_t>(key));
}

// Keys where SortLargestFirst finds them.
struct SharedKeys {
  uint64_t* keys;
  __device__ uint64_t Get(int64_t i) const { return keys[i]; }
  __device__ void Set(int64_t i, uint64_t key) const { keys[i] = key; }
};

// Bitonic sort (Batcher, 1968) in the form whose comparisons all point one way, so that any count
// will do: what is missing behind the end would stay there.
template <typename Keys>
__device__ void SortLargestFirst(const Keys& keys, int64_t count) {
  for (int64_t span = 2; span < 2 * count; span *= 2) {
    for (int64_t step = span / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
        // The first step of a merge mirrors within the span, the others move by the step.
        const int64_t other = step == span / 2 ? (i ^ (span - 1)) : (i ^ step);
        if (other <= i || other >= count) continue;
        const uint64_t a = keys.Get(i);
        const uint64_t b = keys.Get(other);
        if (a < b) {
          keys.Set(i, b);
          keys.Set(other, a);
        }
      }
    }
  }
  __syncthreads();
}

// body(i, row[i]) for the thread's elements, eight of them under way at once.
template <typename Body>
__device__ __forceinline__ void ForEachElement(const float* row, int64_t width, const Body& body) {
  constexpr int kAtOnce = 8;
  for (int64_t begin = threadIdx.x; begin < width; begin += int64_t{blockDim.x} * kAtOnce) {
    float values[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int64_t i = begin + int64_t{blockDim.x} * j;
      values[j] = i < width ? row[i] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int64_t i = begin + int64_t{blockDim.x} * j;
      if (i < width) body(i, values[j]);
    }
  }
}

// Over the block's threads, the result in each, in one order. T: double or an integer of 64 bits.
// REQUIRES: all threads take part, whole warps.
template <typename T, typename Operation>
__device__ __forceinline__ T BlockCombine(T value, T neutral, const Operation& operation) {
  __shared__ T of_warp[32];
  const auto over_warp = [&](T x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      x = operation(x, __shfl_xor_sync(0xffffffff, x, offset));
    }
    return x;
  };
  value = over_warp(value);
  __syncthreads();  // whoever still reads the last one's values
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  return over_warp(threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : neutral);
}

}  // namespace penstock::cuda
