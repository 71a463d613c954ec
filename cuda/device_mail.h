// The mail of a GPU's stage: kernels in one stream, which may be captured. All that changes from
// step to step they read from one descriptor in pinned memory, so a graph binds no address of a
// neighbour. Source of the way: tests/spike (a release store by the sender's last block, an acquire
// by the receiver).
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "core/tensor/allocator.h"
#include "core/tensor/device_mail.h"

namespace penstock::cuda {

// `max_tokens`: fed and sent ones of a step. On the current device, whose memory `memory` is and
// outlives this; the stream does too. Errors: the allocator's; RESOURCE_EXHAUSTED for pinned
// memory.
absl::StatusOr<std::unique_ptr<DeviceMail>> MakeDeviceMail(cudaStream_t stream, int64_t max_tokens,
                                                           int64_t vocab_size,
                                                           BaseAllocator& memory);

}  // namespace penstock::cuda
