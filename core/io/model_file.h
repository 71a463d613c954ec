// A model by the path or name that a user gives: what it is, its weights, its tokenizer. The one
// place that knows the formats:
//   a .gguf file; a Hugging Face folder (config.json, safetensors, a tokenizer); dummy:NAME.
// A stage needs configuration and weights, a front end configuration and tokenizer: each opens what
// it needs, and the files of the other may be missing. Functions are thread-safe, results const.
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
};

// Errors: the format's, with the file's name; for what is no model INVALID_ARGUMENT or NOT_FOUND,
// saying what to give instead.
absl::StatusOr<ModelFile> OpenModel(const std::string& path);

struct ModelTokenizer {
  ModelConfig config;
  TokenizerSpec spec;  // as many tokens as the model has rows of embeddings
};

// Errors: as OpenModel.
absl::StatusOr<ModelTokenizer> OpenTokenizer(const std::string& path);

}  // namespace penstock
