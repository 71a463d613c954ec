// The hash that tells models apart: over what a model is, not over its bytes. The front end and all
// stages of a pipeline must have opened the same model, and compare this.
// Pure functions, thread-safe.
#pragma once

#include <cstdint>

#include "core/io/weight_source.h"
#include "core/model/model_config.h"

namespace penstock {

// Hash64 over the configuration and the name, type and shape of every tensor that the source has:
// the same wherever the model lies (its own name, which can be its folder's, is left out) and
// whatever part of it is loaded. Never 0. It reads no tensor. Weights of one architecture, size and
// precision are told apart by a check file alone (core/io/check_file.h).
uint64_t ModelHash(const ModelConfig& config, const WeightSource& source);

}  // namespace penstock
