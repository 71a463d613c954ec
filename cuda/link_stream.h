// The LinkStream of a GPU (core/tensor/link_stream.h). Other rooms may include this header; it
// needs none of CUDA's. A CUDA error ends the process.
#pragma once

#include <memory>

#include "core/base/status.h"
#include "core/tensor/link_stream.h"

namespace penstock {

// Opens the GPU. Errors: those of OpenGpu (cuda_allocator.h), RESOURCE_EXHAUSTED.
absl::StatusOr<std::unique_ptr<LinkStream>> MakeCudaLinkStream(int ordinal, int64_t scratch_bytes);

}  // namespace penstock
