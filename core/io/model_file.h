// ModelFile: a model on disk, whatever its format: what it is, its weights, its tokenizer. The one
// place that knows the formats. Const after OpenModel; any number of readers.
#pragma once

#include <memory>
#include <string>

#include "core/base/status.h"
#include "core/io/weight_source.h"
#include "core/model/model_config.h"
#include "core/tokenizer/tokenizer.h"

namespace penstock {

struct ModelFile {
  ModelConfig config;
  std::unique_ptr<WeightSource> weights;
  TokenizerSpec tokenizer;
};

// Opens a .gguf file. Errors: the format's, with the file's name.
absl::StatusOr<ModelFile> OpenModel(const std::string& path);

}  // namespace penstock
