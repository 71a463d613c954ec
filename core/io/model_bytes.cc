#include "core/io/model_bytes.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "core/base/check.h"
#include "core/model/kv_cache.h"
#include "core/model/model_tensors.h"

namespace penstock {
namespace {

// Where a tensor of this name is counted. REQUIRES: a name of ModelTensors.
int64_t* PartOf(std::string_view name, ModelBytes& bytes) {
  if (name == "embed_tokens.weight") return &bytes.embedding;
  if (name == "norm.weight") return &bytes.norm;
  if (name == "lm_head.weight") return &bytes.head;
  absl::string_view rest = Abs(name);
  int64_t layer = 0;
  PENSTOCK_CHECK(absl::ConsumePrefix(&rest, "layers.") &&
                 absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer));
  return &bytes.layers[static_cast<size_t>(layer)];
}

}  // namespace

absl::StatusOr<ModelBytes> MeasureModel(const ModelFile& file) {
  const std::vector<TensorInfo> infos = file.weights->Tensors();  // sorted by name
  ModelBytes bytes;
  bytes.layers.resize(static_cast<size_t>(file.config.num_layers));
  for (const ModelTensor& wanted : ModelTensors(file.config)) {
    const auto found = std::lower_bound(
        infos.begin(), infos.end(), wanted.name,
        [](const TensorInfo& info, const std::string& name) { return info.name < name; });
    if (found == infos.end() || found->name != wanted.name) {
      return absl::NotFoundError(absl::StrCat("the model file has no tensor '", wanted.name,
                                              "': fetch it again, it is not whole"));
    }
    PENSTOCK_ASSIGN_OR_RETURN(const int64_t tensor, TensorBytes(found->type, wanted.shape));
    *PartOf(wanted.name, bytes) += tensor;
  }
  bytes.kv_block = KvCache::BlockBytes(file.config, 1);
  return bytes;
}

}  // namespace penstock
