#include <cfloat>

#include "core/kernels/top_k.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"
#include "cuda/ranked_row.cuh"

namespace penstock::cuda {
namespace {

constexpr int kTopKThreads = 1024;
constexpr int64_t kSharedKeys = 4096;  // as many are sorted in shared memory, more where they lie
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

struct Threshold {
  uint32_t value;  // the k-th largest, as an ordered integer
  int64_t larger;  // elements above it
  int64_t equal;   // as large, one at least
};

// Digit by digit from the top (radix select). Five readings of the row with the one that collects;
// a vocabulary fits level 2.
__device__ Threshold SelectThreshold(const float* row, int64_t width, int64_t k) {
  __shared__ unsigned counts[kDigits];
  __shared__ uint32_t chosen;
  __shared__ int64_t above_chosen;
  uint32_t prefix = 0;
  int64_t above = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (unsigned digit = threadIdx.x; digit < kDigits; digit += blockDim.x) counts[digit] = 0;
    __syncthreads();
    ForEachElement(row, width, [&](int64_t, float element) {
      const uint32_t value = Ordered(element);
      const bool in = shift == 24 || value >> (shift + 8) == prefix >> (shift + 8);
      if (!in) return;
      // Few digits are many elements': lanes that have the same one count it together.
      const unsigned digit = value >> shift & 0xff;
      const unsigned peers = __match_any_sync(__activemask(), digit);
      if (__ffs(static_cast<int>(peers)) - 1 == static_cast<int>(threadIdx.x % 32)) {
        atomicAdd(&counts[digit], static_cast<unsigned>(__popc(peers)));
      }
    });
    __syncthreads();
    if (threadIdx.x == 0) {
      int64_t seen = above;
      int digit = kDigits - 1;
      while (seen + counts[digit] < k) seen += counts[digit--];
      chosen = prefix | static_cast<uint32_t>(digit) << shift;
      above_chosen = seen;
    }
    __syncthreads();
    prefix = chosen;
    above = above_chosen;
  }
  return {prefix, above, counts[prefix & 0xff]};
}

// A block a row: finds the threshold, collects what lies above it in any order and of its equals
// the first, sorts these k.
template <typename Keys>
__device__ void TopKRow(const float* row, int64_t width, int64_t k, const Keys& keys) {
  __shared__ unsigned next;
  __shared__ unsigned equals_of_warp[kTopKThreads / 32];
  const Threshold threshold = SelectThreshold(row, width, k);
  const int64_t larger = threshold.larger;
  if (threadIdx.x == 0) next = 0;
  __syncthreads();
  const bool all_equals = larger + threshold.equal == k;
  ForEachElement(row, width, [&](int64_t i, float element) {
    const uint32_t value = Ordered(element);
    if (value > threshold.value || (all_equals && value == threshold.value)) {
      keys.Set(atomicAdd(&next, 1u), Key(value, static_cast<int32_t>(i)));
    }
  });
  const unsigned warp = threadIdx.x / 32;
  const unsigned lane = threadIdx.x % 32;
  int64_t equals = 0;  // before this round, the same in all threads
  // More equals than places: the first of them in order, round by round until there are enough.
  for (int64_t begin = 0; !all_equals && larger + equals < k; begin += blockDim.x) {
    const int64_t i = begin + threadIdx.x;
    const uint32_t value = i < width ? Ordered(row[i]) : 0;
    const bool is_equal = i < width && value == threshold.value;
    const unsigned lanes = __ballot_sync(0xffffffff, is_equal);
    if (lane == 0) equals_of_warp[warp] = __popc(lanes);
    __syncthreads();
    int64_t place = larger + equals + __popc(lanes & ((1u << lane) - 1));
    for (unsigned w = 0; w < blockDim.x / 32; ++w) {
      if (w < warp) place += equals_of_warp[w];
      equals += equals_of_warp[w];
    }
    if (is_equal && place < k) keys.Set(place, Key(value, static_cast<int32_t>(i)));
    __syncthreads();
  }
  SortLargestFirst(keys, k);
}

__global__ void __launch_bounds__(kTopKThreads)
    TopKKernel(const float* x, int64_t stride, int64_t width, int64_t k, float* values,
               int32_t* indices) {
  extern __shared__ uint64_t shared_keys[];
  LetNextBegin();
  WaitForInputs();
  const float* row = x + blockIdx.x * stride;
  float* best = values + blockIdx.x * k;
  int32_t* place = indices + blockIdx.x * k;
  if (k <= kSharedKeys) {
    TopKRow(row, width, k, SharedKeys{shared_keys});
    for (int64_t i = threadIdx.x; i < k; i += blockDim.x) place[i] = IndexOf(shared_keys[i]);
    __syncthreads();
  } else {
    TopKRow(row, width, k, OutputKeys{best, place});
  }
  for (int64_t i = threadIdx.x; i < k; i += blockDim.x) best[i] = row[place[i]];
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
  const size_t shared = k <= kSharedKeys ? static_cast<size_t>(k) * sizeof(uint64_t) : 0;
  Launch(stream, {dim3(Blocks(x.dim(0))), dim3(kTopKThreads), shared}, TopKKernel,
         Elements<const float>(x), x.stride(0), x.dim(1), k, Elements<float>(values),
         Elements<int32_t>(indices));
}

}  // namespace penstock::cuda
