// The weights of a Hugging Face folder: model.safetensors alone, or the shards that
// model.safetensors.index.json names. Headers of all shards are read and checked; of the tensors
// only those that are asked for.
#pragma once

#include <memory>
#include <string>

#include "core/base/status.h"
#include "core/io/weight_source.h"
#include "core/model/model_config.h"

namespace penstock {

// Errors: NOT_FOUND for a folder without such files, saying what is there instead, and for a shard
// that is missing; INVALID_ARGUMENT for an index and shards that contradict each other;
// UNIMPLEMENTED for a tensor that a model of this configuration has no use for: it would be left
// out silently, and the text be wrong. Those of SafetensorsFile::Open.
absl::StatusOr<std::unique_ptr<WeightSource>> OpenSafetensors(const std::string& folder,
                                                              const ModelConfig& config);

}  // namespace penstock
