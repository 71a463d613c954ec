// What the parts of a model take in memory, by its file: for the split of its layers over stages.
// Nothing is loaded. Thread-safe.
#pragma once

#include "core/base/status.h"
#include "core/io/model_file.h"
#include "core/sched/layer_split.h"

namespace penstock {

// Errors: NOT_FOUND for a tensor that the model must have and the file has not; the file's.
absl::StatusOr<ModelBytes> MeasureModel(const ModelFile& file);

}  // namespace penstock
