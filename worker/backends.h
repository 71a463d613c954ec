// Backends by name: which there are depends on how the program was built. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/model/backend.h"
#include "core/sched/stage_types.h"

namespace penstock {

// The backend of options.device, for a stage with these options over a model of that configuration.
// Errors, all with what to do: INVALID_ARGUMENT for an unknown device, or what it cannot do;
// UNIMPLEMENTED for a device that this program was built without; the device's own.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const StageOptions& options,
                                                     const ModelConfig& config);

// The ordinal of a GPU's name, "cuda:N"; -1 for "cpu". Errors: INVALID_ARGUMENT for another name.
absl::StatusOr<int> DeviceOrdinal(const std::string& device);

// The device of each stage: `devices` is one for all of them; or one a stage, with commas between;
// or "cuda", the GPUs from cuda:0 on, one a stage. Errors: INVALID_ARGUMENT for a name that is no
// device, or another number of them.
absl::StatusOr<std::vector<std::string>> StageDevices(const std::string& devices,
                                                      int64_t num_stages);

// What is said of a GPU by a program that was built without CUDA.
absl::Status WithoutCuda(const std::string& device);

}  // namespace penstock
