#include "core/kernels/padding_offset.h"
#include "cuda/kernels/launchers.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

// A block a row.
__global__ void PaddingOffsetKernel(const int32_t* row_starts, int64_t max_len, int64_t num_tokens,
                                    int32_t* offsets) {
  LetNextBegin();
  WaitForInputs();
  const int64_t first = row_starts[blockIdx.x] - row_starts[0];
  const int64_t length = row_starts[blockIdx.x + 1] - row_starts[blockIdx.x];
  DeviceCheck(first >= 0 && length <= max_len && first + length <= num_tokens);
  for (int64_t i = threadIdx.x; i < length; i += blockDim.x) {
    offsets[first + i] = static_cast<int32_t>(blockIdx.x * max_len + i);
  }
}

}  // namespace

void LaunchPaddingOffset(cudaStream_t stream, const Tensor& row_starts, int64_t max_len,
                         const Tensor& offsets) {
  const int64_t rows = row_starts.dim(0) - 1;
  PENSTOCK_CHECK_LE(rows * max_len, INT32_MAX);
  Launch(stream, {dim3(Blocks(rows)), dim3(128)}, PaddingOffsetKernel,
         Elements<const int32_t>(row_starts), max_len, offsets.dim(0), Elements<int32_t>(offsets));
}

}  // namespace penstock::cuda
