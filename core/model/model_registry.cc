#include "core/model/model_registry.h"

namespace penstock {
namespace {

absl::StatusOr<std::unique_ptr<Model>> LoadLlama(const ModelConfig& config, LayerRange range,
                                                 const WeightSource& source,
                                                 const ModelLimits& limits, Ops& ops,
                                                 const ModelMemory& memory) {
  LlamaWeight weight(range);
  PENSTOCK_RETURN_IF_ERROR(weight.Load({source, config, memory.packing, memory.place_weight}, ""));
  return MakeLlama(config, std::move(weight), limits, ops, memory.workspace, memory.residual);
}

struct Family {
  std::string_view architecture;
  decltype(&LoadLlama) load;
};

constexpr Family kFamilies[] = {
    {"llama", &LoadLlama},    // Llama 2 and 3, SmolLM2
    {"mistral", &LoadLlama},  // and a sliding window
    {"qwen2", &LoadLlama},    // and a bias of q, k and v
    {"qwen3", &LoadLlama},    // and a norm of each head of q and k
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeModel(const ModelConfig& config, LayerRange range,
                                                 const WeightSource& source,
                                                 const ModelLimits& limits, Ops& ops,
                                                 const ModelMemory& memory) {
  std::string known;
  for (const Family& family : kFamilies) {
    if (family.architecture == config.architecture) {
      return family.load(config, range, source, limits, ops, memory);
    }
    absl::StrAppend(&known, known.empty() ? "" : ", ", Abs(family.architecture));
  }
  return absl::UnimplementedError(absl::StrCat("the architecture '", config.architecture,
                                               "' is not supported; these are: ", known));
}

}  // namespace penstock
