// The tensors that a model of a configuration has, under their canonical names
// (core/io/weight_source.h), with the shapes that they must have. Pure functions, thread-safe.
#pragma once

#include <string>
#include <vector>

#include "core/model/layer_range.h"
#include "core/model/model_config.h"
#include "core/tensor/tensor.h"

namespace penstock {

struct ModelTensor {
  std::string name;
  Shape shape;
};

// From the embedding table to the LM head, in the order of the forward pass.
// REQUIRES: Validate(config) is OK.
std::vector<ModelTensor> ModelTensors(const ModelConfig& config);

// Those that a stage of these layers reads: the embedding table if it has the first layer, and the
// last norm and the LM head (the embedding table where it is tied) if it has the last.
// REQUIRES: the range lies in the model.
std::vector<ModelTensor> ModelTensors(const ModelConfig& config, LayerRange range);

// Elements of all of them: what people call parameters.
int64_t NumParameters(const ModelConfig& config);
int64_t NumParameters(const ModelConfig& config, LayerRange range);

}  // namespace penstock
