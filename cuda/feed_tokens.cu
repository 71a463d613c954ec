#include "cuda/feed_tokens.h"
#include "cuda/launch.h"

namespace penstock::cuda {
namespace {

__global__ void FeedTokensKernel(const int32_t* from, int count, const int32_t* tokens,
                                 int num_tokens, int32_t* token_ids) {
  WaitForInputs();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count || from[i] < 0) return;
  DeviceCheck(from[i] < num_tokens);
  token_ids[i] = max(tokens[from[i]], 0);
}

}  // namespace

void LaunchFeedTokens(cudaStream_t stream, const Tensor& from, const Tensor& tokens,
                      const Tensor& token_ids) {
  PENSTOCK_CHECK(from.shape() == token_ids.shape());
  const int64_t count = from.dim(0);
  PENSTOCK_CHECK_LE(count, INT32_MAX);
  Launch(stream, {dim3(Blocks(count, kThreads)), dim3(kThreads)}, FeedTokensKernel,
         Elements<const int32_t>(from), static_cast<int>(count), Elements<const int32_t>(tokens),
         static_cast<int>(tokens.dim(0)), Elements<int32_t>(token_ids));
}

}  // namespace penstock::cuda
