// LlamaWeight: the weight tree of the Llama family, whole or a slice of its layers.
#pragma once

#include <vector>

#include "core/model/layer_range.h"
#include "core/weights/layer_weights.h"

namespace penstock {

struct LlamaWeight final : BaseWeight {
  explicit LlamaWeight(LayerRange range) : layers_range(range) {}

  LayerRange layers_range;
  EmbeddingWeight embedding;        // first stage; last stage too when it is the LM head
  std::vector<LayerWeight> layers;  // this stage's
  NormWeight norm;                  // last stage
  Tensor lm_head;                   // [vocab, hidden], last stage; the embedding table when tied

  // `prefix` is "" for the family's canonical names.
  absl::Status Load(const WeightLoader& loader, std::string_view prefix) override;
  int64_t bytes() const override;
};

}  // namespace penstock
