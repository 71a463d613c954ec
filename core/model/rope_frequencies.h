// The frequencies by which a model's RoPE turns positions into angles, scaling included. A pure
// function; what the kernels do with them is in core/kernels/bias_rope.h.
#pragma once

#include <vector>

#include "core/model/model_config.h"

namespace penstock {

// [head_dim / 2]: theta^(-2i / head_dim), then as config.rope_scaling says. Rounded to float32 at
// each step, in the order in which Hugging Face's transformers computes them: more precision would
// be another model at long positions. REQUIRES: Validate(config) is OK.
std::vector<float> RopeFrequencies(const ModelConfig& config);

}  // namespace penstock
