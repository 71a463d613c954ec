// The float32 tile that sgemm and conv2d are made of: a block of 256 threads computes a 128 x 128
// piece of C = A B, a thread 8 x 8 of it in registers.
//
// What lives where: C in registers; slabs of A (transposed) and B, 16 deep, in shared memory, two
// of each, so that one is filled while the other is used; the next slab's elements wait in
// registers while they come from level 2 or device memory. A thread reads 16 floats from shared
// memory for 64 multiplications; the warp's 4 x 8 threads read the same 128 and 256 bytes.
// An element of C is one chain of fused multiply-adds over k from 0 on: it depends on its row of A
// and its column of B alone.
#pragma once

#include "cuda/device.cuh"

namespace penstock::cuda {

inline constexpr int kTile = 128;      // rows and columns of C a block
inline constexpr int kTileDepth = 16;  // k's a slab
inline constexpr int kTileThreads = 256;
inline constexpr int kTileRuns =
    kTile * kTileDepth / kTileThreads / 4;  // of four elements a thread
inline constexpr int kTilePad = 4;  // keeps the transposed stores of A off each other's banks

struct TileStorage {
  float a[2][kTileDepth][kTile + kTilePad];  // [k][row]
  float b[2][kTileDepth][kTile];             // [k][column]
};

// A thread's elements of a slab: how they are spread is the loader's affair.
struct TileLoad {
  float at[kTileRuns * 4];
};

// The thread's eight rows and eight columns within the tile are two runs of four each.
struct TilePlace {
  int row;     // and row + 64
  int column;  // and column + 64
};
__device__ __forceinline__ TilePlace ThreadPlace() {
  // Warps stand 2 x 4 and threads in a warp 8 x 4, four rows by four columns each, in a quarter.
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  return {warp / 4 * 32 + lane / 4 * 4, warp % 4 * 16 + lane % 4 * 4};
}

// Loader has
//   TileLoad Load(k)          its elements of the slab that begins at k, zeros beyond the edges
//   void Store(load, slab)    puts them into slab[kTileDepth][...]
template <typename LoaderA, typename LoaderB>
__device__ __forceinline__ void MultiplyTile(TileStorage& storage, int64_t depth,
                                             const LoaderA& load_a, const LoaderB& load_b,
                                             float (&sums)[8][8]) {
  const TilePlace place = ThreadPlace();
  load_a.Store(load_a.Load(0), storage.a[0]);
  load_b.Store(load_b.Load(0), storage.b[0]);
  __syncthreads();
  int slab = 0;
  for (int64_t k = 0; k < depth; k += kTileDepth, slab ^= 1) {
    const bool more = k + kTileDepth < depth;
    TileLoad next_a;
    TileLoad next_b;
    if (more) {
      next_a = load_a.Load(k + kTileDepth);
      next_b = load_b.Load(k + kTileDepth);
    }
#pragma unroll
    for (int i = 0; i < kTileDepth; ++i) {
      float a[8];
      float b[8];
      *reinterpret_cast<float4*>(a) = *reinterpret_cast<float4*>(&storage.a[slab][i][place.row]);
      *reinterpret_cast<float4*>(a + 4) =
          *reinterpret_cast<float4*>(&storage.a[slab][i][place.row + 64]);
      *reinterpret_cast<float4*>(b) = *reinterpret_cast<float4*>(&storage.b[slab][i][place.column]);
      *reinterpret_cast<float4*>(b + 4) =
          *reinterpret_cast<float4*>(&storage.b[slab][i][place.column + 64]);
#pragma unroll
      for (int row = 0; row < 8; ++row) {
#pragma unroll
        for (int column = 0; column < 8; ++column) {
          sums[row][column] = fmaf(a[row], b[column], sums[row][column]);
        }
      }
    }
    if (more) {
      load_a.Store(next_a, storage.a[slab ^ 1]);
      load_b.Store(next_b, storage.b[slab ^ 1]);
      __syncthreads();
    }
  }
}

// Rows of a matrix [rows, depth] whose k is innermost; stored transposed. A thread has runs of four
// k's, in rows so far apart that the block takes whole slabs.
template <bool kAligned>
struct RowMajorA {
  static constexpr int kAcross = kTileDepth / 4;  // runs in a row of a slab

  const float* data;  // the first row of the tile
  int64_t rows;       // that exist from there on
  int64_t depth;

  __device__ __forceinline__ TileLoad Load(int64_t k) const {
    TileLoad load;
    const int64_t at = k + threadIdx.x % kAcross * 4;
#pragma unroll
    for (int half = 0; half < kTileRuns; ++half) {
      const int64_t row = threadIdx.x / kAcross + half * (kTileThreads / kAcross);
      const float* from = data + row * depth + at;
      if (kAligned) {
        const bool in = row < rows && at < depth;
        *reinterpret_cast<float4*>(load.at + half * 4) =
            in ? __ldg(reinterpret_cast<const float4*>(from)) : float4{};
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          load.at[half * 4 + j] = row < rows && at + j < depth ? __ldg(from + j) : 0.0f;
        }
      }
    }
    return load;
  }

  __device__ __forceinline__ void Store(const TileLoad& load,
                                        float (&slab)[kTileDepth][kTile + kTilePad]) const {
    const int at = threadIdx.x % kAcross * 4;
#pragma unroll
    for (int half = 0; half < kTileRuns; ++half) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        slab[at + j][threadIdx.x / kAcross + half * (kTileThreads / kAcross)] =
            load.at[half * 4 + j];
      }
    }
  }
};

// A matrix [depth, columns] whose columns are innermost. A thread has k's threadIdx.x / 32 and 8
// on, four columns from threadIdx.x % 32 * 4 on.
template <bool kAligned>
struct RowMajorB {
  const float* data;  // the first column of the tile
  int64_t columns;    // that exist from there on
  int64_t stride;     // from one k to the next
  int64_t depth;

  __device__ __forceinline__ TileLoad Load(int64_t k) const {
    TileLoad load;
    const int64_t column = threadIdx.x % 32 * 4;
#pragma unroll
    for (int half = 0; half < kTileRuns; ++half) {
      const int64_t at = k + threadIdx.x / 32 + half * 8;
      const float* from = data + at * stride + column;
      if (kAligned) {
        const bool in = at < depth && column < columns;
        *reinterpret_cast<float4*>(load.at + half * 4) =
            in ? __ldg(reinterpret_cast<const float4*>(from)) : float4{};
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          load.at[half * 4 + j] = at < depth && column + j < columns ? __ldg(from + j) : 0.0f;
        }
      }
    }
    return load;
  }

  __device__ __forceinline__ void Store(const TileLoad& load,
                                        float (&slab)[kTileDepth][kTile]) const {
#pragma unroll
    for (int half = 0; half < kTileRuns; ++half) {
      *reinterpret_cast<float4*>(&slab[threadIdx.x / 32 + half * 8][threadIdx.x % 32 * 4]) =
          *reinterpret_cast<const float4*>(load.at + half * 4);
    }
  }
};

}  // namespace penstock::cuda
