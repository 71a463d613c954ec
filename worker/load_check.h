// Holds what a stage is told to load against the model that it has opened, before it reads a
// weight. Pure functions, thread-safe.
#pragma once

#include <cstdint>

#include "core/base/status.h"
#include "core/sched/stage_types.h"

namespace penstock {

// The layers that the options name, all of them where they name none.
LayerRange StageLayers(const StageOptions& options, const ModelConfig& config);

// Errors: FAILED_PRECONDITION for another model than options.model_hash says; INVALID_ARGUMENT for
// layers out of the model, a place in the pipeline that does not fit them, or plans_ahead out of
// its bounds. All say what to do.
absl::Status CheckStageOptions(const StageOptions& options, const ModelConfig& config,
                               uint64_t model_hash);

// How many KV blocks of `block_bytes` the stage makes; `kv_bytes` is the memory for them, where the
// options do not say how many. Errors: INVALID_ARGUMENT with the setting if it holds none.
absl::StatusOr<int64_t> StageBlocks(const StageOptions& options, const ModelConfig& config,
                                    int64_t block_bytes, int64_t kv_bytes);

// Whether weights and KV find room on a device with so many bytes free (0: it has no memory of its
// own). What else a stage needs, staging memory of the weights' upload included, is small beside
// them. Errors: RESOURCE_EXHAUSTED with the numbers.
absl::Status CheckRoom(const StageOptions& options, int64_t weight_bytes, int64_t kv_bytes,
                       int64_t free_bytes);

// The memory for KV where nobody says how much: of what is free once weights and workspace are
// there.
int64_t KvBytesOf(int64_t free_bytes);

}  // namespace penstock
