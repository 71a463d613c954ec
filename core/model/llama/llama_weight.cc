#include "core/model/llama/llama_weight.h"

namespace penstock {

absl::Status LlamaWeight::Load(const WeightLoader& loader, std::string_view prefix) {
  const ModelConfig& config = loader.config;
  const bool is_first = layers_range.first == 0;
  const bool is_last = layers_range.last == config.num_layers;
  const auto name = [&](std::string_view tail) { return absl::StrCat(Abs(prefix), Abs(tail)); };

  if (is_first || (is_last && config.tied_embeddings)) {
    PENSTOCK_RETURN_IF_ERROR(embedding.Load(loader, name("embed_tokens.weight")));
  }
  layers.resize(static_cast<size_t>(layers_range.count()));
  for (int64_t i = 0; i < layers_range.count(); ++i) {
    PENSTOCK_RETURN_IF_ERROR(layers[static_cast<size_t>(i)].Load(
        loader, absl::StrCat(Abs(prefix), "layers.", layers_range.first + i)));
  }
  if (!is_last) return absl::OkStatus();
  PENSTOCK_RETURN_IF_ERROR(norm.Load(loader, name("norm.weight")));
  if (config.tied_embeddings) {
    lm_head = embedding.table;
    return absl::OkStatus();
  }
  PENSTOCK_ASSIGN_OR_RETURN(
      lm_head, loader.Get(name("lm_head.weight"), Shape({config.vocab_size, config.hidden_size})));
  return absl::OkStatus();
}

int64_t LlamaWeight::bytes() const {
  int64_t sum = 0;
  if (!embedding.table.empty()) sum += embedding.bytes();
  for (const LayerWeight& layer : layers) sum += layer.bytes();
  if (!norm.gain.empty()) sum += norm.bytes();
  if (!lm_head.empty() && lm_head.raw() != embedding.table.raw()) sum += lm_head.bytes();
  return sum;
}

}  // namespace penstock
