// What device code shares: packs of elements, conversions, reductions, the order of kernels in a
// stream. Nothing here depends on the host's side of the project.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace penstock::cuda {

// N elements that one instruction loads or stores.
template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T at[N];
};

// Elements in 16 bytes, the widest access.
template <typename T>
inline constexpr int kWide = 16 / static_cast<int>(sizeof(T));

__device__ __forceinline__ float ToFloat(float value) { return value; }
__device__ __forceinline__ float ToFloat(__half value) { return __half2float(value); }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 value) { return __bfloat162float(value); }

// Rounded to nearest even.
template <typename T>
__device__ __forceinline__ T FromFloat(float value);
template <>
__device__ __forceinline__ float FromFloat<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half FromFloat<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 FromFloat<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// Waits until the work before this kernel in the stream is done and its writes are visible. Before
// it a kernel may read weights and what earlier steps or copies to here wrote, and write nothing.
__device__ __forceinline__ void WaitForInputs() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Lets the next kernel of the stream begin, up to its own WaitForInputs(), once every block of this
// one has said so or ended.
__device__ __forceinline__ void LetNextBegin() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// Fetches a line towards the level-2 cache without waiting for it.
__device__ __forceinline__ void PrefetchToL2(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// An index from earlier work that is out of bounds is a mistake of ours, and ends the process.
__device__ __forceinline__ void DeviceCheck(bool condition) {
  if (!condition) __trap();
}

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Over the 32 lanes, the same value and the same order in each. REQUIRES: all lanes take part.
template <typename Operation>
__device__ __forceinline__ float WarpReduce(float value, const Operation& operation) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value = operation(value, __shfl_xor_sync(0xffffffff, value, offset));
  }
  return value;
}

// Over the block's threads, the result in each. REQUIRES: all threads take part, whole warps.
template <typename Operation>
__device__ __forceinline__ float BlockReduce(float value, float neutral,
                                             const Operation& operation) {
  __shared__ float of_warp[32];
  const unsigned warp = threadIdx.x / 32;
  const unsigned lane = threadIdx.x % 32;
  value = WarpReduce(value, operation);
  __syncthreads();  // whoever still reads the last reduction's values
  if (lane == 0) of_warp[warp] = value;
  __syncthreads();
  return WarpReduce(lane < blockDim.x / 32 ? of_warp[lane] : neutral, operation);
}

}  // namespace penstock::cuda
