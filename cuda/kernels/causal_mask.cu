#include "core/kernels/causal_mask.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

// A block a query: a row of max_k cells.
template <int N>
__global__ void CausalMaskKernel(const int32_t* row_starts, const int32_t* context_lens,
                                 int64_t window, int64_t max_q, int64_t max_k, uint8_t* mask) {
  LetNextBegin();
  WaitForInputs();
  const int64_t r = blockIdx.x / max_q;
  const int64_t i = blockIdx.x % max_q;
  const int64_t length = row_starts[r + 1] - row_starts[r];
  const int64_t context = context_lens[r];
  DeviceCheck(length <= max_q && length <= context && context <= max_k);
  // Seen are [first, last).
  const int64_t last = i < length ? context - length + i + 1 : 0;
  const int64_t first = window == kNoWindow ? 0 : max(last - window, int64_t{0});
  auto* cells = reinterpret_cast<Pack<uint8_t, N>*>(mask + blockIdx.x * max_k);
  for (int64_t at = threadIdx.x; at < max_k / N; at += blockDim.x) {
    Pack<uint8_t, N> pack;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      pack.at[j] = at * N + j >= first && at * N + j < last ? 1 : 0;
    }
    cells[at] = pack;
  }
}

}  // namespace

void LaunchCausalMask(cudaStream_t stream, const Tensor& row_starts, const Tensor& context_lens,
                      int64_t window, const Tensor& mask) {
  const int64_t rows = mask.dim(0);
  const int64_t max_q = mask.dim(1);
  const int64_t max_k = mask.dim(2);
  PENSTOCK_CHECK_EQ(row_starts.dim(0), rows + 1);
  PENSTOCK_CHECK_EQ(context_lens.dim(0), rows);
  PENSTOCK_CHECK_GE(window, kNoWindow);
  PENSTOCK_CHECK(mask.is_contiguous());
  ForWidth<uint8_t>(IsWide(mask, max_k), [&](auto pack) {
    Launch(stream, {dim3(Blocks(rows * max_q)), dim3(128)}, CausalMaskKernel<decltype(pack)::value>,
           Elements<const int32_t>(row_starts), Elements<const int32_t>(context_lens), window,
           max_q, max_k, Elements<uint8_t>(mask));
  });
}

}  // namespace penstock::cuda
