// Backends by name: which there are depends on how the program was built. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/model/backend.h"
#include "core/sched/stage_types.h"
#include "core/tensor/link_stream.h"
#include "core/tensor/peer_memory.h"

namespace penstock {

// The backend of options.device, for a stage with these options over a model of that configuration.
// Errors, all with what to do: INVALID_ARGUMENT for an unknown device, or what it cannot do;
// UNIMPLEMENTED for a device that this program was built without; the device's own.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const StageOptions& options,
                                                     const ModelConfig& config);

// The memory through which a stage on options.device takes and gives rows (options.mailbox_bytes).
// Errors as of MakeBackend.
absl::StatusOr<std::unique_ptr<PeerMemory>> MakePeerMemory(const StageOptions& options);

// Where NCCL enqueues what a stage on that device takes or gives (worker/transport/
// nccl_transport.h). Errors as of MakeBackend.
absl::StatusOr<std::unique_ptr<LinkStream>> MakeLinkStream(const std::string& device,
                                                           int64_t scratch_bytes);

// OK if a stage on `from` can write to the mailbox of one on `to`, both of this machine. Errors,
// with what to do: FAILED_PRECONDITION if not; those of the devices.
absl::Status CheckPeerMemory(const std::string& from, const std::string& to);

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
