// The ceilings of a device by its name: what benchmarks hold a step against. Takes the whole device
// for some tenths of a second: to be called while nothing else runs.
#pragma once

#include <string>

#include "core/base/device_ceilings.h"
#include "core/base/status.h"
#include "core/tensor/data_type.h"

namespace penstock {

// Of "cpu", with so many threads (0: one a core), reading alone; of "cuda:N" also a matrix product
// in `type`. Errors: those of MakeBackend for such a device.
absl::StatusOr<DeviceCeilings> MeasureCeilings(const std::string& device, DataType type,
                                               int threads);

}  // namespace penstock
