// Rows that feed tokens which the step before has just sampled, and the host does not know yet.
#pragma once

#include "core/tensor/tensor.h"

struct CUstream_st;

namespace penstock::cuda {

// Backend::FeedTokens (core/model/backend.h): token_ids[i] = max(tokens[from[i]], 0) where from[i]
// >= 0. i32; from and token_ids [n], on the device; tokens the sampler's, in the host's memory.
// Thread-safe as far as the stream is. Errors: a failed launch ends the process.
void LaunchFeedTokens(CUstream_st* stream, const Tensor& from, const Tensor& tokens,
                      const Tensor& token_ids);

}  // namespace penstock::cuda
