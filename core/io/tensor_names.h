// The names of a model's tensors: Penstock's canonical ones (weight_source.h) and those in GGUF and
// safetensors files. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/model/model_config.h"

namespace penstock {

// "layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight"; nothing if it is no such name.
std::optional<std::string> GgufTensorName(std::string_view canonical);
// The way back; nothing if it is no such name.
std::optional<std::string> FromGgufTensorName(std::string_view gguf);

// "norm.weight" -> "model.norm.weight"; only the LM head has no "model." in front.
std::string HfTensorName(std::string_view canonical);
// The way back; nothing if it does not open with "model." and is not the LM head.
std::optional<std::string_view> FromHfTensorName(std::string_view hf);

// Whether the forward pass of such a model computes with a tensor of that canonical name.
bool IsTensorOf(const ModelConfig& config, std::string_view canonical);

}  // namespace penstock
