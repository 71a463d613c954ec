// The float32 tiles that sgemm and conv2d are made of: a block computes a piece of C = A B, a
// thread 8 rows of it by 8 columns.
//
// What lives where: C in registers; slabs of A and B, 16 deep, in a ring in shared memory, which
// asynchronous copies fill without registers, some slabs ahead. A lies there as in memory, rows
// padded so that eight of them meet eight different groups of banks, and a thread reads four of a
// row's k's at once; B lies with its columns side by side. Registers decide: 64 sums a thread and
// 12 warps a multiprocessor are faster than 128 sums and 8 warps, or 16 warps without room for what
// is read ahead (tests/bench/results/2026-11-30_cuda_kernels.md). An element of C is one chain of
// fused multiply-adds over k from 0 on (of a SplitTile two): it depends on its row of A and its
// column of B alone.
#pragma once

#include <cstdint>

#include "cuda/bulk_copy.cuh"
#include "cuda/device.cuh"

namespace penstock::cuda {

inline constexpr int kTileDepth = 16;  // k's a slab
inline constexpr int kTileThreadRows = 8;
inline constexpr int kTileUnroll = 4;  // runs of four k's

// Warps side by side cover the columns, kWarpRows of them the rows; a warp's threads stand 8 x 4.
// Where tiles are too few to keep the multiprocessors busy kGroups of such warps share out the k's
// of each slab: an element is then a chain a group.
template <int kWarpRowsV, int kWarpColumnsV, int kThreadColumnsV, int kStagesV, int kGroupsV = 1>
struct TileShape {
  static constexpr int kGroups = kGroupsV;
  static constexpr int kWarpRows = kWarpRowsV;
  static constexpr int kWarpColumns = kWarpColumnsV;
  static constexpr int kThreadColumns = kThreadColumnsV;
  static constexpr int kStages = kStagesV;
  static constexpr int kGroupThreads = kWarpRows * kWarpColumns * 32;
  static constexpr int kThreads = kGroups * kGroupThreads;
  static constexpr int kAtOnce = 384 / kThreads;  // blocks a multiprocessor: 168 registers a thread
  static constexpr int kRows = kWarpRows * 8 * kTileThreadRows;
  static constexpr int kColumns = kWarpColumns * 4 * kThreadColumns;
  static constexpr int kPitch = kTileDepth + 4;  // of a row of A
  static constexpr int kBytes =
      kStages * (kRows * kPitch + kTileDepth * kColumns) * static_cast<int>(sizeof(float));
};
using SquareTile = TileShape<1, 2, 8, 3>;  // 64 x 64
using WideTile = TileShape<1, 4, 8, 3>;    // 64 x 128
using SplitTile = TileShape<1, 2, 8, 3, 2>;

// kCount floats, or zeros, into shared memory. REQUIRES: both aligned to as many.
template <int kCount>
__device__ __forceinline__ void CopyAsync(float* shared, const float* global, bool is_there) {
  const int bytes = is_there ? kCount * 4 : 0;
  if constexpr (kCount == 4) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)),
                 "l"(global), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(SharedAddress(shared)),
                 "l"(global), "r"(bytes)
                 : "memory");
  }
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until no more than the thread's last kPending groups are under way.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// The thread's rows are row + 8 i, its columns column + 16 j and the three that follow.
template <typename Shape>
struct TilePlace {
  int row;
  int column;
  __device__ TilePlace() {
    const int warp = static_cast<int>(threadIdx.x) % Shape::kGroupThreads / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    row = warp / Shape::kWarpColumns * 64 + lane / 4;
    column = warp % Shape::kWarpColumns * 4 * Shape::kThreadColumns + lane % 4 * 4;
  }
};

template <typename Shape>
using TileSums = float[kTileThreadRows][Shape::kThreadColumns];

// A loader has
//   Prepare(slab)        told one slab ahead of Fetch, and of the first kStages before all
//   Fetch(slab, shared)  starts the copies of the thread's elements, zeros beyond the edges; A's
//                        into [kRows][kPitch], B's into [kTileDepth][kColumns]
// `shared` has Shape::kBytes. True in the threads that have the sums afterwards, one group.
template <typename Shape, typename LoaderA, typename LoaderB>
__device__ __forceinline__ bool MultiplyTile(float* shared, int64_t depth, const LoaderA& load_a,
                                             const LoaderB& load_b, TileSums<Shape>& sums) {
  constexpr int kStages = Shape::kStages;
  constexpr int kSlabA = Shape::kRows * Shape::kPitch;
  constexpr int kSlabB = kTileDepth * Shape::kColumns;
  float* const ring_a = shared;
  float* const ring_b = shared + kStages * kSlabA;
  constexpr int kGroupDepth = kTileDepth / Shape::kGroups;
  const int group = static_cast<int>(threadIdx.x) / Shape::kGroupThreads;
  const int first_k = group * kGroupDepth;
  const TilePlace<Shape> place;
  const int slabs = static_cast<int>((depth + kTileDepth - 1) / kTileDepth);
  for (int slab = 0; slab < kStages; ++slab) load_b.Prepare(slab);
  __syncthreads();
#pragma unroll
  for (int slab = 0; slab < kStages - 1; ++slab) {
    if (slab < slabs) {
      load_a.Fetch(slab, ring_a + slab * kSlabA);
      load_b.Fetch(slab, ring_b + slab * kSlabB);
    }
    CommitCopies();
  }
  int at = 0;              // of the slab in the ring
  int free = kStages - 1;  // where the next one goes
  for (int slab = 0; slab < slabs; ++slab) {
    WaitForCopies<kStages - 2>();
    __syncthreads();
    if (slab + kStages - 1 < slabs) {
      load_a.Fetch(slab + kStages - 1, ring_a + free * kSlabA);
      load_b.Fetch(slab + kStages - 1, ring_b + free * kSlabB);
    }
    CommitCopies();
    load_b.Prepare(slab + kStages);
    const float* a_at = ring_a + at * kSlabA + place.row * Shape::kPitch;
    const float* b_at = ring_b + at * kSlabB + place.column;
#pragma unroll kTileUnroll
    for (int within = 0; within < kGroupDepth; within += 4) {
      const int k = first_k + within;
      float a[kTileThreadRows][4];
#pragma unroll
      for (int i = 0; i < kTileThreadRows; ++i) {
        *reinterpret_cast<float4*>(a[i]) =
            *reinterpret_cast<const float4*>(a_at + i * 8 * Shape::kPitch + k);
      }
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        float b[Shape::kThreadColumns];
#pragma unroll
        for (int j = 0; j < Shape::kThreadColumns; j += 4) {
          *reinterpret_cast<float4*>(b + j) =
              *reinterpret_cast<const float4*>(b_at + (k + step) * Shape::kColumns + j * 4);
        }
#pragma unroll
        for (int i = 0; i < kTileThreadRows; ++i) {
#pragma unroll
          for (int j = 0; j < Shape::kThreadColumns; ++j) {
            sums[i][j] = fmaf(a[i][step], b[j], sums[i][j]);
          }
        }
      }
    }
    at = at + 1 == kStages ? 0 : at + 1;
    free = free + 1 == kStages ? 0 : free + 1;
  }
  if constexpr (Shape::kGroups == 1) return true;
  // The second group's sums, one beside the other for the threads of a warp.
  static_assert(Shape::kGroups <= 2);
  static_assert(kTileThreadRows * Shape::kThreadColumns * Shape::kGroupThreads * 4 <=
                Shape::kBytes);
  float* const of_thread = shared + threadIdx.x % Shape::kGroupThreads;
  WaitForCopies<0>();
  __syncthreads();
#pragma unroll
  for (int pass = 1; pass >= 0; --pass) {
    if (group == pass) {
#pragma unroll
      for (int i = 0; i < kTileThreadRows * Shape::kThreadColumns; ++i) {
        float& sum = sums[i / Shape::kThreadColumns][i % Shape::kThreadColumns];
        float& other = of_thread[i * Shape::kGroupThreads];
        if (pass == 1) {
          other = sum;
        } else {
          sum += other;
        }
      }
    }
    __syncthreads();
  }
  return group == 0;
}

// Rows of a matrix [rows, depth] whose k is innermost. What a slab does not change is worked out
// once.
template <typename Shape, bool kAligned>
class RowMajorA {
 public:
  // From the first row of the tile on, of which so many exist.
  __device__ RowMajorA(const float* data, int64_t rows, int64_t depth)
      : within_(static_cast<int>(threadIdx.x) % kAcross * kRun),
        first_(static_cast<int>(threadIdx.x) / kAcross),
        rows_(static_cast<int>(rows < Shape::kRows ? rows : Shape::kRows)),
        depth_(depth),
        from_(data + first_ * depth + within_) {}

  __device__ __forceinline__ void Prepare(int) const {}
  __device__ __forceinline__ void Fetch(int slab, float* shared) const {
    const int64_t begin = static_cast<int64_t>(slab) * kTileDepth;
    const bool is_k = begin + within_ < depth_;
    const float* from = from_ + begin;
    float* to = shared + first_ * Shape::kPitch + within_;
#pragma unroll
    for (int row = 0; row < Shape::kRows; row += kApart) {
      CopyAsync<kRun>(to + row * Shape::kPitch, from, is_k && first_ + row < rows_);
      from += kApart * depth_;
    }
  }

 private:
  static constexpr int kRun = kAligned ? 4 : 1;             // floats a copy
  static constexpr int kAcross = kTileDepth / kRun;         // copies of a row
  static constexpr int kApart = Shape::kThreads / kAcross;  // rows
  static_assert(Shape::kRows % kApart == 0);

  const int within_;
  const int first_;
  const int rows_;
  const int64_t depth_;
  const float* const from_;
};

// A matrix [depth, columns] whose columns are innermost.
template <typename Shape, bool kAligned>
class RowMajorB {
 public:
  // From the first column of the tile on, of which so many exist; `stride` from one k to the next.
  __device__ RowMajorB(const float* data, int64_t columns, int64_t stride, int64_t depth)
      : column_(static_cast<int>(threadIdx.x) % kAcross * kRun),
        first_(static_cast<int>(threadIdx.x) / kAcross),
        // Beyond the last column no k is there.
        depth_(column_ < columns ? depth : 0),
        stride_(stride),
        from_(data + first_ * stride + column_) {}

  __device__ __forceinline__ void Prepare(int) const {}
  __device__ __forceinline__ void Fetch(int slab, float* shared) const {
    const int64_t begin = static_cast<int64_t>(slab) * kTileDepth;
    const auto left = static_cast<int>(min(depth_ - begin, int64_t{kTileDepth}));
    const float* from = from_ + begin * stride_;
    float* to = shared + first_ * Shape::kColumns + column_;
#pragma unroll
    for (int k = 0; k < kTileDepth; k += kApart) {
      CopyAsync<kRun>(to + k * Shape::kColumns, from, first_ + k < left);
      from += kApart * stride_;
    }
  }

 private:
  static constexpr int kRun = kAligned ? 4 : 1;
  static constexpr int kAcross = Shape::kColumns / kRun;
  static constexpr int kApart = Shape::kThreads / kAcross;  // k's
  static_assert(kApart >= 1 && kTileDepth % kApart == 0);

  const int column_;
  const int first_;
  const int64_t depth_;
  const int64_t stride_;
  const float* const from_;
};

}  // namespace penstock::cuda
