// batch_linear's kernel (batch_linear.h has what it computes and how the work is spread).
#pragma once

#include "cuda/batch_tile.cuh"
#include "cuda/cluster.cuh"

namespace penstock::cuda {

struct BatchProblem {
  BatchRing ring;
  int steps;  // through k, of a slab
  // Of AddAndNorm.
  float* sum;
  int64_t sum_stride;
  const __nv_bfloat16* gain;
  float* squares;  // [num_tokens, blocks]
  // Of both: gained, or out.
  __nv_bfloat16* out;
  int64_t out_stride;
  RowFactors norm;
};

// One tile of a thread's: those rows of the weight whose sums it finishes, for its two tokens.
template <int N, int kSplit>
struct BatchSums {
  static constexpr int kOwn = N / 2 / kSplit;  // of its sums; four of eight rows

  const BatchProblem& problem;
  int token;
  int row;  // the first; the next, then 8 on

  // body(element of the sums, token, row): of that row and the next.
  template <typename Body>
  __device__ __forceinline__ void ForEachPair(const Body& body) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (token + half * 8 >= problem.ring.num_tokens) continue;
#pragma unroll
      for (int i = 0; i < kOwn; i += 4) body(i + half * 2, token + half * 8, row + i * 2);
    }
  }

  __device__ __forceinline__ void LoadSums(float (&sums)[kOwn]) const {
    ForEachPair([&](int i, int t, int j) {
      const float2 two = *reinterpret_cast<const float2*>(problem.sum + t * problem.sum_stride + j);
      sums[i] = two.x;
      sums[i + 1] = two.y;
    });
  }
  __device__ __forceinline__ void StoreSums(const float (&sums)[kOwn]) const {
    float squares[2] = {};
    ForEachPair([&](int i, int t, int j) {
      *reinterpret_cast<float2*>(problem.sum + t * problem.sum_stride + j) = {sums[i], sums[i + 1]};
      const float2 by =
          __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(problem.gain + j));
      *reinterpret_cast<__nv_bfloat162*>(problem.out + t * problem.out_stride + j) =
          __floats2bfloat162_rn(sums[i] * by.x, sums[i + 1] * by.y);
      squares[i / 2 % 2] += sums[i] * sums[i] + sums[i + 1] * sums[i + 1];
    });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float all = squares[half];
      all += __shfl_xor_sync(~0u, all, 1);
      all += __shfl_xor_sync(~0u, all, 2);
      const int t = token + half * 8;
      if (threadIdx.x % 4 == 0 && t < problem.ring.num_tokens) {
        problem.squares[t * gridDim.x + blockIdx.x] = all;
      }
    }
  }
  __device__ __forceinline__ void StoreOut(const float (&sums)[kOwn],
                                           const float (&factors)[2]) const {
    ForEachPair([&](int i, int t, int j) {
      const float by = factors[i / 2 % 2];
      *reinterpret_cast<__nv_bfloat162*>(problem.out + t * problem.out_stride + j) =
          __floats2bfloat162_rn(sums[i] * by, sums[i + 1] * by);
    });
  }
};

template <int N, int kSplit, bool kAdds>
__global__ void __launch_bounds__(BatchTile<N, 1, 1>::kThreads, 1)
    BatchLinearKernel(const __grid_constant__ BatchProblem problem,
                      const __grid_constant__ CUtensorMap weight_map,
                      const __grid_constant__ CUtensorMap x_map) {
  extern __shared__ __align__(16) uint8_t bytes[];
  __shared__ uint64_t come;  // the other half of k
  using Tile = BatchTile<N, 1, 1>;
  using Sums = BatchSums<N, kSplit>;
  constexpr int kThreads = 128;
  __shared__ float4 others[kSplit == 1 ? 1 : Sums::kOwn / 4 * kThreads];  // [four sums][thread]
  const int block = static_cast<int>(blockIdx.x);
  const int part = block % kSplit;
  const int steps = problem.steps / kSplit;
  const Tile tile(problem.ring, {block / kSplit, 1, block / kSplit + 1, part * steps, steps},
                  bytes);
  LetNextBegin();
  if (threadIdx.x == 0) {
    if (kSplit > 1) MakeBarrier(&come, 1);
    tile.MakeBarriers();
    if (kSplit > 1) ArriveExpecting(&come, sizeof(others));
  }
  if (threadIdx.x == 32) {
    PrefetchMap(&weight_map);
    PrefetchMap(&x_map);
  }
  __syncthreads();
  if (kSplit > 1) ArriveAtCluster();
  if (Tile::IsFiller()) {
    const uint64_t policy = EvictFirst();
    tile.Fill(x_map, [&](void* shared, int of_tile, int step, uint64_t* barrier) {
      TensorLoad(shared, &weight_map, step * BatchSlab::kColumns, of_tile * N, barrier, policy);
    });
    if (kSplit > 1) WaitForCluster();
    return;
  }
  WaitForInputs();
  const int token = Tile::Token();
  const Sums mine = {
      problem, token,
      tile.walk.tile * N + part * (N / kSplit) + static_cast<int>(threadIdx.x) % 4 * 2};
  float before[Sums::kOwn] = {};
  float factors[2] = {1, 1};
  if constexpr (kAdds) {
    mine.LoadSums(before);
  } else {
    factors[0] = problem.norm.Of(token, problem.ring.num_tokens);
    factors[1] = problem.norm.Of(token + 8, problem.ring.num_tokens);
  }
  BatchPlace at(tile.walk);
  int left = tile.walk.Total();
  float c[N / 2];
  tile.Sum(c, at, left);
  float sums[Sums::kOwn];
  if constexpr (kSplit == 1) {
#pragma unroll
    for (int i = 0; i < Sums::kOwn; ++i) sums[i] = c[i];
  } else {
    WaitForCluster();  // its barriers are made
    float given[Sums::kOwn];
#pragma unroll
    for (int i = 0; i < Sums::kOwn; ++i) {
      sums[i] = part == 0 ? c[i] : c[Sums::kOwn + i];
      given[i] = part == 0 ? c[Sums::kOwn + i] : c[i];
    }
    const uint32_t there = AddressIn(SharedAddress(others + threadIdx.x), 1 - part);
    const uint32_t barrier = AddressIn(SharedAddress(&come), 1 - part);
#pragma unroll
    for (int i = 0; i < Sums::kOwn; i += 4) {
      StoreAt(there + i / 4 * kThreads * 16, given[i], given[i + 1], given[i + 2], given[i + 3],
              barrier);
    }
    WaitForStores(&come, 0);
#pragma unroll
    for (int i = 0; i < Sums::kOwn; i += 4) {
      const float4 four = others[i / 4 * kThreads + threadIdx.x];
      sums[i] += four.x;
      sums[i + 1] += four.y;
      sums[i + 2] += four.z;
      sums[i + 3] += four.w;
    }
  }
  if constexpr (kAdds) {
#pragma unroll
    for (int i = 0; i < Sums::kOwn; ++i) sums[i] += before[i];
    mine.StoreSums(sums);
  } else {
    mine.StoreOut(sums, factors);
  }
}

}  // namespace penstock::cuda
