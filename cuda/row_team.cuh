// RowTeam: the blocks that work on one row of logits together: one, or a cluster of a few where
// rows are few, so that one row is not one multiprocessor's alone. Each reads its share of the row;
// what is put together is put together in every block, so that all of them take the same way.
// Results do not depend on the number of blocks: counts and sums of whole numbers are exact, and
// sums of floats have one order (Parts below). All threads of all blocks take part in every call.
#pragma once

#include <cstdint>

#include "cuda/ranked_row.cuh"

namespace penstock::cuda {

inline constexpr int kTeamThreads = 1024;  // a block
// A row is read in stretches of kRowParts parts of kTeamThreads elements; the same part of all
// stretches is one block's.
inline constexpr int kRowParts = 8;

template <int kBlocksV>
class RowTeam {
 public:
  static constexpr int kBlocks = kBlocksV;
  static constexpr int kOwnParts = kRowParts / kBlocks;

  __device__ RowTeam() {
    if constexpr (kBlocks > 1) asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank_));
  }

  // Of this block, from 0.
  __device__ unsigned rank() const { return rank_; }

  // Everybody's writes before it, shared and global, are seen by everybody after it.
  __device__ void Sync() const {
    if constexpr (kBlocks > 1) {
      asm volatile(
          "barrier.cluster.arrive.release.aligned;\n"
          "barrier.cluster.wait.acquire.aligned;" ::
              : "memory");
    } else {
      __syncthreads();
    }
  }

  // body(i, row[i], part) for the thread's elements, eight of them under way at once; `part` is
  // that of the block's own parts which the element is of, rising within a stretch.
  template <typename Body>
  __device__ __forceinline__ void ForEach(const float* row, int64_t width, const Body& body) const {
    constexpr int64_t kStretch = int64_t{kRowParts} * kTeamThreads;
    const int64_t first = int64_t{rank_} * kOwnParts * kTeamThreads + threadIdx.x;
    for (int64_t begin = first; begin < width; begin += kStretch * kBlocks) {
      float values[kRowParts];
#pragma unroll
      for (int j = 0; j < kRowParts; ++j) {
        const int64_t i = begin + Offset(j);
        values[j] = i < width ? row[i] : 0.0f;
      }
#pragma unroll
      for (int j = 0; j < kRowParts; ++j) {
        const int64_t i = begin + Offset(j);
        if (i < width) body(i, values[j], j % kOwnParts);
      }
    }
  }

  // BlockCombine over all blocks.
  template <typename T, typename Operation>
  __device__ __forceinline__ T Combine(T value, T neutral, const Operation& operation) {
    value = BlockCombine<T>(value, neutral, operation);
    if constexpr (kBlocks > 1) value = OverBlocks(value, operation);
    return value;
  }
  // The same of values that all threads of a block share.
  template <typename T, typename Operation>
  __device__ __forceinline__ T OverBlocks(T value, const Operation& operation) {
    // Two in turn: whoever writes one has been at the meeting after all have read it.
    __shared__ T of_block[2];
    T* const place = &of_block[Turn()];
    if (threadIdx.x == 0) *place = value;
    Sync();
    value = *Of(place, 0);
    for (unsigned block = 1; block < kBlocks; ++block) value = operation(value, *Of(place, block));
    return value;
  }

  // Adds up the threads' sums of each of their own parts over the row's parts: in float64, a part's
  // threads first and then the parts in order.
  __device__ double AddParts(const float (&sums)[kOwnParts]) {
    __shared__ double of_warp[kOwnParts][kTeamThreads / 32];
    __shared__ double of_part[2][kOwnParts];
    const unsigned warp = threadIdx.x / 32;
    const unsigned lane = threadIdx.x % 32;
    double(&mine)[kOwnParts] = of_part[Turn()];
    __syncthreads();  // whoever still reads the last ones
#pragma unroll
    for (int part = 0; part < kOwnParts; ++part) {
      const double sum = OverWarp(static_cast<double>(sums[part]));
      if (lane == 0) of_warp[part][warp] = sum;
    }
    __syncthreads();
    if (warp < kOwnParts) {
      const double sum = OverWarp(of_warp[warp][lane]);
      if (lane == 0) mine[warp] = sum;
    }
    Sync();
    double total = 0;
    for (unsigned block = 0; block < kBlocks; ++block) {
      for (int part = 0; part < kOwnParts; ++part) total += *Of(&mine[part], block);
    }
    return total;
  }

  // Each of an array's counts becomes the sum of all blocks'. The block's threads need not have
  // met since the last change; they have after it.
  template <int kCount>
  __device__ void AddCounts(unsigned* counts) const {
    if constexpr (kBlocks > 1) {
      constexpr int kEach = (kCount + kTeamThreads - 1) / kTeamThreads;
      unsigned sums[kEach] = {};
      Sync();
#pragma unroll
      for (int n = 0; n < kEach; ++n) {
        const int i = static_cast<int>(threadIdx.x) + n * kTeamThreads;
        for (unsigned block = 0; i < kCount && block < kBlocks; ++block) {
          sums[n] += *Of(counts + i, block);
        }
      }
      Sync();
#pragma unroll
      for (int n = 0; n < kEach; ++n) {
        const int i = static_cast<int>(threadIdx.x) + n * kTeamThreads;
        if (i < kCount) counts[i] = sums[n];
      }
    }
    __syncthreads();
  }

  // Each block has put `*found` keys into its list; now every block has all of them, in the order
  // of the blocks. Returns how many these are. REQUIRES: no more than kMost.
  template <int kMost>
  __device__ int Gather(uint64_t* keys, const unsigned* found) const {
    __syncthreads();
    if constexpr (kBlocks == 1) return static_cast<int>(*found);
    constexpr int kEach = (kMost + kTeamThreads - 1) / kTeamThreads;
    const unsigned own = *found;
    uint64_t mine[kEach];
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
      const unsigned i = threadIdx.x + n * kTeamThreads;
      mine[n] = i < own ? keys[i] : 0;
    }
    Sync();
    unsigned before = 0;
    unsigned total = 0;
    for (unsigned block = 0; block < kBlocks; ++block) {
      const unsigned count = *Of(found, block);
      if (block < rank_) before += count;
      total += count;
    }
    for (unsigned block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int n = 0; n < kEach; ++n) {
        const unsigned i = threadIdx.x + n * kTeamThreads;
        if (i < own) *Of(keys + before + i, block) = mine[n];
      }
    }
    Sync();
    return static_cast<int>(total);
  }

 private:
  static __device__ __forceinline__ int64_t Offset(int j) {
    return (int64_t{j / kOwnParts} * kRowParts + j % kOwnParts) * kTeamThreads;
  }
  static __device__ __forceinline__ double OverWarp(double value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      value += __shfl_xor_sync(0xffffffff, value, offset);
    }
    return value;
  }
  // That block's shared variable of the same place.
  template <typename T>
  static __device__ __forceinline__ T* Of(T* shared, unsigned block) {
    if constexpr (kBlocks == 1) return shared;
    uint64_t address;
    asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(shared), "r"(block));
    return reinterpret_cast<T*>(address);
  }
  __device__ __forceinline__ unsigned Turn() { return turn_ ^= 1; }

  unsigned rank_ = 0;
  unsigned turn_ = 0;
};

}  // namespace penstock::cuda
