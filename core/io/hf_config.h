// config.json of a Hugging Face folder, in the forms that transformers 4 and 5 write. What is not
// written has the default of transformers' class for the family. Pure functions but for reading the
// files.
#pragma once

#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/model/model_config.h"

namespace penstock {

// The model's configuration, validated; its name is the folder's. Families: llama, mistral, qwen2,
// qwen3. Errors: those of JsonDocument; INVALID_ARGUMENT for a value that cannot be; UNIMPLEMENTED
// for another architecture and for what would change the answers without being computed here (other
// kinds of RoPE, biases that no supported model has, layers of different kinds, quantization).
absl::StatusOr<ModelConfig> ReadHfConfig(const std::string& folder);
// The same on a text; `name` stands for the file in messages.
absl::StatusOr<ModelConfig> ParseHfConfig(const std::string& name, std::string_view text);

}  // namespace penstock
