// The ceilings of a GPU, measured: plain reads of its memory and a large product of cuBLASLt.
// No CUDA header is needed to include it. One thread at a time; a CUDA error ends the process.
#pragma once

#include <cstdint>

#include "core/base/device_ceilings.h"
#include "core/base/status.h"
#include "core/tensor/tensor.h"

namespace penstock {

// Some tenths of a second; takes 1.4 GB of the GPU's memory meanwhile. `type`: of the product, f32,
// f16 or bf16. Errors: those of MakeCudaAllocator.
absl::StatusOr<DeviceCeilings> MeasureCudaCeilings(int ordinal, DataType type);

// Bytes a second that plain 16-byte loads read of a tensor on the current GPU, which should be far
// larger than its cache: the best of some shapes of the kernel.
double MeasureReadBandwidth(const Tensor& data);

}  // namespace penstock
