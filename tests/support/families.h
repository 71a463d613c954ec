// The tiny models of tests/golden/families, one a family, as transformers saves them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/base/check.h"
#include "core/io/hf_config.h"
#include "core/io/safetensors_weights.h"

namespace penstock::testing {

inline std::vector<std::string> FamilyNames() {
  return {"llama2", "llama3", "llama_linear", "mistral", "qwen2", "qwen3", "smollm2"};
}

inline std::string FamilyFolder(const std::string& name) {
  return std::string(PENSTOCK_SOURCE_DIR "/tests/golden/families/") + name;
}

struct Family {
  ModelConfig config;
  std::unique_ptr<WeightSource> weights;
};

inline Family OpenFamily(const std::string& name) {
  Family family;
  absl::StatusOr<ModelConfig> config = ReadHfConfig(FamilyFolder(name));
  PENSTOCK_CHECK(config.ok());
  family.config = *std::move(config);
  auto weights = OpenSafetensors(FamilyFolder(name), family.config);
  PENSTOCK_CHECK(weights.ok());
  family.weights = *std::move(weights);
  return family;
}

}  // namespace penstock::testing
