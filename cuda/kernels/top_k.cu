#include <cfloat>

#include "core/kernels/top_k.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"
#include "cuda/row_team.cuh"

namespace penstock::cuda {
namespace {

constexpr int kTopKThreads = kTeamThreads;
constexpr int kSharedKeys = 4096;  // as many are sorted in shared memory, more where they lie
constexpr int kDigits = 256;

// Keys that are sorted where the results will lie.
struct OutputKeys {
  float* values;
  int32_t* indices;
  __device__ uint64_t Get(int64_t i) const { return Key(Ordered(values[i]), indices[i]); }
  __device__ void Set(int64_t i, uint64_t key) const {
    values[i] = Unordered(static_cast<uint32_t>(key >> 32));
    indices[i] = IndexOf(key);
  }
};

__device__ __forceinline__ uint64_t KeyOf(float element, int64_t i) {
  return Key(Ordered(isnan(element) ? -INFINITY : element), static_cast<int32_t>(i));
}

struct PickedDigit {
  unsigned digit;
  unsigned above;  // counts of larger digits
};

// The digit at which the counts from the largest on reach `wanted`. One warp.
__device__ PickedDigit PickDigit(const unsigned* counts, unsigned wanted) {
  constexpr int kEach = kDigits / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = kDigits - 1 - lane * kEach;  // and downwards
  unsigned sum = 0;
  for (int i = 0; i < kEach; ++i) sum += counts[first - i];
  unsigned through = sum;
  for (int offset = 1; offset < 32; offset *= 2) {
    const unsigned other = __shfl_up_sync(0xffffffff, through, offset);
    if (lane >= offset) through += other;
  }
  const int owner = __ffs(static_cast<int>(__ballot_sync(0xffffffff, through >= wanted))) - 1;
  PickedDigit picked = {static_cast<unsigned>(first), through - sum};
  while (lane == owner && picked.above + counts[picked.digit] < wanted) {
    picked.above += counts[picked.digit--];
  }
  return {__shfl_sync(0xffffffff, picked.digit, owner),
          __shfl_sync(0xffffffff, picked.above, owner)};
}

// The k-th largest key, or a key below it and above the next: digit by digit from the top (radix
// select), a reading of the row each, until a digit's elements are just those that are wanted.
template <typename Team>
__device__ uint64_t FindBar(Team& team, const float* row, int64_t width, unsigned wanted) {
  __shared__ unsigned counts[kDigits];
  __shared__ PickedDigit picked;
  uint64_t prefix = 0;
  for (int shift = 56;; shift -= 8) {
    __syncthreads();
    if (threadIdx.x < kDigits) counts[threadIdx.x] = 0;
    __syncthreads();
    team.ForEach(row, width, [&](int64_t i, float element, int) {
      const uint64_t key = KeyOf(element, i);
      if (shift < 56 && key >> (shift + 8) != prefix) return;
      // Few digits are many elements': lanes that have the same one count it together.
      const auto digit = static_cast<unsigned>(key >> shift & 0xff);
      const unsigned peers = __match_any_sync(__activemask(), digit);
      if (__ffs(static_cast<int>(peers)) - 1 == static_cast<int>(threadIdx.x % 32)) {
        atomicAdd(&counts[digit], static_cast<unsigned>(__popc(peers)));
      }
    });
    team.template AddCounts<kDigits>(counts);
    if (threadIdx.x < 32) {
      const PickedDigit found = PickDigit(counts, wanted);
      if (threadIdx.x == 0) picked = found;
    }
    __syncthreads();
    prefix = prefix << 8 | picked.digit;
    wanted -= picked.above;
    if (counts[picked.digit] == wanted || shift == 0) return prefix << shift;
  }
}

// A team of blocks a row: finds what the k largest begin with, collects them in any order, sorts
// them.
template <int kBlocks>
__global__ void __cluster_dims__(kBlocks) __launch_bounds__(kTopKThreads)
    TopKKernel(const float* x, int64_t stride, int64_t width, int64_t k, float* values,
               int32_t* indices) {
  extern __shared__ uint64_t keys[];  // [kSharedKeys], if k is no more
  __shared__ unsigned found;
  LetNextBegin();
  WaitForInputs();
  RowTeam<kBlocks> team;
  const int64_t r = blockIdx.x / kBlocks;
  const float* row = x + r * stride;
  float* best = values + r * k;
  int32_t* place = indices + r * k;
  const uint64_t bar = FindBar(team, row, width, static_cast<unsigned>(k));
  if (threadIdx.x == 0) found = 0;
  __syncthreads();
  const bool is_shared = k <= kSharedKeys;
  const OutputKeys output = {best, place};
  team.ForEach(row, width, [&](int64_t i, float element, int) {
    const uint64_t key = KeyOf(element, i);
    if (key < bar) return;
    const unsigned at = atomicAdd(&found, 1u);
    if (is_shared) {
      keys[at] = key;
    } else if (kBlocks == 1) {
      output.Set(at, key);
    }
  });
  if (is_shared) {
    team.template Gather<kSharedKeys>(keys, &found);
    if (team.rank() == 0) {
      SortLargestFirst(SharedKeys{keys}, k);
      for (int64_t i = threadIdx.x; i < k; i += blockDim.x) place[i] = IndexOf(keys[i]);
    }
  } else {
    SortLargestFirst(output, k);
  }
  __syncthreads();
  if (team.rank() == 0) {
    for (int64_t i = threadIdx.x; i < k; i += blockDim.x) best[i] = row[place[i]];
  }
  team.Sync();  // what others may still read goes with a block
}

}  // namespace

void LaunchTopK(cudaStream_t stream, const Tensor& x, const Tensor& values, const Tensor& indices) {
  const int64_t k = values.dim(1);
  PENSTOCK_CHECK(indices.shape() == values.shape());
  PENSTOCK_CHECK_EQ(values.dim(0), x.dim(0));
  PENSTOCK_CHECK_GT(k, 0);
  PENSTOCK_CHECK_LE(k, x.dim(1));
  PENSTOCK_CHECK_LE(x.dim(1), INT32_MAX);
  PENSTOCK_CHECK(values.is_contiguous() && indices.is_contiguous());
  const size_t shared = k <= kSharedKeys ? kSharedKeys * sizeof(uint64_t) : 0;
  const auto launch = [&](auto blocks) {
    constexpr int kBlocks = decltype(blocks)::value;
    Launch(stream, {dim3(Blocks(x.dim(0) * kBlocks)), dim3(kTopKThreads), shared},
           TopKKernel<kBlocks>, Elements<const float>(x), x.stride(0), x.dim(1), k,
           Elements<float>(values), Elements<int32_t>(indices));
  };
  // As many blocks a row as keep each multiprocessor's two places busy; one where the results are
  // sorted in device memory.
  const int64_t places = k <= kSharedKeys ? 2 * NumMultiprocessors() : 0;
  if (x.dim(0) * 8 <= places) return launch(std::integral_constant<int, 8>());
  if (x.dim(0) * 2 <= places) return launch(std::integral_constant<int, 2>());
  launch(std::integral_constant<int, 1>());
}

}  // namespace penstock::cuda
