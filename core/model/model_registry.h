// The explicit list of model families: architecture name to factory. To add one: a folder in
// core/model and a line in the table.
#pragma once

#include <memory>
#include <string_view>

#include "core/model/llama/llama.h"

namespace penstock {

// Loads layers `range`, not empty, from the source and makes the model of config.architecture.
// `ops` and `allocator` must outlive it. Errors: UNIMPLEMENTED for an unknown architecture, naming
// the known ones; the source's and the allocator's.
absl::StatusOr<std::unique_ptr<Model>> MakeModel(const ModelConfig& config, LayerRange range,
                                                 const WeightSource& source,
                                                 const ModelLimits& limits, Ops& ops,
                                                 BaseAllocator& allocator);

}  // namespace penstock
