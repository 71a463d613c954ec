// rms_norm and fused_residual_norm: one row, by one block.
#pragma once

#include <algorithm>

#include "cuda/launch.h"

namespace penstock::cuda {

// How the kernels of both stems are launched for so many rows. Few rows leave most of the GPU idle
// and wait for memory alone, so each thread has one pack of a row; many take turns in small blocks.
inline LaunchShape NormShape(int64_t rows, int64_t hidden, int64_t pack) {
  const int64_t packs = (hidden / pack + 31) / 32 * 32;
  const int64_t most = rows <= 2 * NumMultiprocessors() ? 512 : kThreads;
  const int64_t floats = hidden + packs / 32;
  return {dim3(Blocks(rows)), dim3(Blocks(std::min(packs, most))),
          static_cast<size_t>(floats) * sizeof(float)};
}

// out = row / sqrt(mean(row^2) + eps) * gain, where load(i, values) gives the row's pack i once the
// kernel's inputs are there. `shared` is NormShape()'s. The squares of 32 packs are added up by a
// warp, then these sums: the order depends on `hidden` and N alone, so a token has the same bits in
// any batch.
template <typename T, int N, typename Load>
__device__ __forceinline__ void NormRow(float* shared, const T* gain, int hidden, float eps, T* out,
                                        const Load& load) {
  const int packs = hidden / N;
  const int slices = (packs + 31) / 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* row = shared;  // [hidden], a thread reads what it has written
  float* squares_of = shared + hidden;
  const auto* gains = reinterpret_cast<const Pack<T, N>*>(gain);
  Pack<T, N> by = {};
  const bool has_pack = static_cast<int>(threadIdx.x) < packs;
  if (has_pack) by = gains[threadIdx.x];  // weights: before the inputs are there
  WaitForInputs();
  for (int slice = warp; slice < slices; slice += warps) {
    const int i = slice * 32 + lane;
    float squares = 0;
    if (i < packs) {
      float values[N];
      load(i, values);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        row[i * N + j] = values[j];
        squares += values[j] * values[j];
      }
    }
    squares = WarpReduce(squares, Sum());
    if (lane == 0) squares_of[slice] = squares;
  }
  __syncthreads();
  float sum = 0;
  for (int slice = lane; slice < slices; slice += 32) sum += squares_of[slice];
  sum = WarpReduce(sum, Sum());
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(hidden) + eps);
  auto* results = reinterpret_cast<Pack<T, N>*>(out);
  for (int i = static_cast<int>(threadIdx.x); i < packs; i += static_cast<int>(blockDim.x)) {
    if (i != static_cast<int>(threadIdx.x)) by = gains[i];
    Pack<T, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      result.at[j] = FromFloat<T>(row[i * N + j] * scale * ToFloat(by.at[j]));
    }
    results[i] = result;
  }
}

}  // namespace penstock::cuda
