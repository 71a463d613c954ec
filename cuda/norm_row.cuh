// The end of rms_norm and fused_residual_norm: one row, by one block.
#pragma once

#include "cuda/device.cuh"

namespace penstock::cuda {

// out = row / sqrt(mean(row^2) + eps) * gain. `row` is in shared memory, and each thread has put
// there the packs that it takes here (i, i + blockDim.x, ...), so that nobody waits for it;
// `squares` is the thread's part of the sum of squares. Its order depends on `hidden` and N alone:
// a token has the same bits in any batch.
template <typename T, int N>
__device__ void NormalizeRow(const float* row, float squares, const T* gain, int64_t hidden,
                             float eps, T* out) {
  const float sum = BlockReduce(squares, 0.0f, Sum());
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(hidden) + eps);
  const auto* gains = reinterpret_cast<const Pack<T, N>*>(gain);
  auto* results = reinterpret_cast<Pack<T, N>*>(out);
  for (int64_t i = threadIdx.x; i < hidden / N; i += blockDim.x) {
    const Pack<T, N> by = gains[i];
    Pack<T, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      result.at[j] = FromFloat<T>(row[i * N + j] * scale * ToFloat(by.at[j]));
    }
    results[i] = result;
  }
}

// Before the inputs are there: the gains on their way to level 2.
template <typename T>
__device__ __forceinline__ void PrefetchGain(const T* gain, int64_t hidden) {
  constexpr int64_t kLine = 128 / sizeof(T);
  for (int64_t i = threadIdx.x * kLine; i < hidden; i += blockDim.x * kLine) {
    PrefetchToL2(gain + i);
  }
}

}  // namespace penstock::cuda
