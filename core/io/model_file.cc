#include "core/io/model_file.h"

#include "core/io/gguf.h"

namespace penstock {

absl::StatusOr<ModelFile> OpenModel(const std::string& path) {
  PENSTOCK_ASSIGN_OR_RETURN(std::shared_ptr<const GgufFile> file, GgufFile::Open(path));
  ModelFile model;
  PENSTOCK_ASSIGN_OR_RETURN(model.config, ReadGgufConfig(*file));
  PENSTOCK_ASSIGN_OR_RETURN(model.tokenizer, ReadGgufTokenizer(*file, model.config.vocab_size));
  model.weights = MakeGgufWeightSource(std::move(file));
  return model;
}

}  // namespace penstock
