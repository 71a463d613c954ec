// Device memory of one GPU: the pools of core/tensor/pool_allocator.h over cudaMalloc and cudaFree.
// Thread-safe. Every call that reaches CUDA makes this GPU the calling thread's current device and
// leaves it so: to put another one back would open it, and take some hundred MiB of a GPU that the
// thread may never have used. cudaFree waits for the whole device, so blocks go back only when the
// policy says so. Errors: a GPU without room is the pools' RESOURCE_EXHAUSTED; any other CUDA error
// ends the process (cuda_check.h).
#pragma once

#include <memory>

#include "core/base/status.h"
#include "core/tensor/pool_allocator.h"

namespace penstock {

// OK if this machine has a GPU of that ordinal; takes nothing of it. Errors: FAILED_PRECONDITION
// when the machine has no GPU or no driver that fits, INVALID_ARGUMENT for an ordinal that it does
// not have.
absl::Status FindGpu(int ordinal);

// Makes it the calling thread's current device. The first time in a process it is opened, which
// takes memory of its own: here it can still be refused with a sentence. Errors: of FindGpu;
// RESOURCE_EXHAUSTED when the GPU has no room even to be opened, or another program holds it.
absl::Status OpenGpu(int ordinal);

// The allocator of the GPU with that ordinal; if options.exact, with red zones around each block
// (core/tensor/guarded_raw.h). Errors: of OpenGpu.
// REQUIRES: the allocator ends before the process's static objects do, while CUDA still answers.
absl::StatusOr<std::unique_ptr<PoolAllocator>> MakeCudaAllocator(int ordinal,
                                                                 const PoolOptions& options = {});

}  // namespace penstock
