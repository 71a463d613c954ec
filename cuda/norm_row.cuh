// The end of rms_norm and fused_residual_norm: one row, by one block, or where rows are many by one
// warp that holds it in registers, with all of its loads under way at once. Both add up in the
// same order: a token has the same bits in any batch.
#pragma once

#include <type_traits>

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

inline constexpr int kNormWarps = 8;  // of the block, whether it has one row or a row a warp

// From so many rows on a warp a row is faster.
inline constexpr int64_t kManyRows = 1024;

// A warp's row: pack i of a lane is pack 32 i + lane of the row, which a block's thread of warp
// i % kNormWarps takes. `squares` is this lane's part of each of those warps' sums.
template <typename T, int N, int kPacks>
__device__ __forceinline__ void NormalizeWarpRow(const Pack<T, N> (&row)[kPacks],
                                                 float (&squares)[kNormWarps], const T* gain,
                                                 int64_t hidden, float eps, T* out) {
#pragma unroll
  for (int warp = 0; warp < kNormWarps; ++warp) squares[warp] = WarpReduce(squares[warp], Sum());
  // As BlockReduce adds up its warps' sums.
#pragma unroll
  for (int half = kNormWarps / 2; half > 0; half /= 2) {
#pragma unroll
    for (int warp = 0; warp < half; ++warp) squares[warp] += squares[warp + half];
  }
  const float scale = 1.0f / sqrtf(squares[0] / static_cast<float>(hidden) + eps);
  const auto* gains = reinterpret_cast<const Pack<T, N>*>(gain);
  auto* results = reinterpret_cast<Pack<T, N>*>(out);
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int at = i * 32 + static_cast<int>(threadIdx.x) % 32;
    if (at >= hidden / N) break;
    const Pack<T, N> by = gains[at];
    Pack<T, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      result.at[j] = FromFloat<T>(ToFloat(row[i].at[j]) * scale * ToFloat(by.at[j]));
    }
    results[at] = result;
  }
}

// Calls body(integral_constant) with the packs that a lane holds of a row, where rows are many and
// a warp's registers have room for one; false if it did not.
template <int N, typename Body>
bool ForWarpRows(int64_t rows, int64_t hidden, const Body& body) {
  const int64_t packs = hidden / N;
  if (N == 1 || rows < kManyRows || packs > 32 * 32) return false;
  if (packs <= 16 * 32) {
    body(std::integral_constant<int, 16>());
  } else {
    body(std::integral_constant<int, 32>());
  }
  return true;
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
