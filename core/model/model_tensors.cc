#include "core/model/model_tensors.h"

namespace penstock {
namespace {

void AddLayer(const ModelConfig& config, int64_t layer, std::vector<ModelTensor>* tensors) {
  const auto add = [&](std::string_view tail, const Shape& shape) {
    tensors->push_back({absl::StrCat("layers.", layer, ".", Abs(tail)), shape});
  };
  const int64_t hidden = config.hidden_size;
  add("input_layernorm.weight", {hidden});
  add("self_attn.q_proj.weight", {config.q_size(), hidden});
  add("self_attn.k_proj.weight", {config.kv_size(), hidden});
  add("self_attn.v_proj.weight", {config.kv_size(), hidden});
  if (config.qkv_bias) {
    add("self_attn.q_proj.bias", {config.q_size()});
    add("self_attn.k_proj.bias", {config.kv_size()});
    add("self_attn.v_proj.bias", {config.kv_size()});
  }
  if (config.qk_norm) {
    add("self_attn.q_norm.weight", {config.head_dim});
    add("self_attn.k_norm.weight", {config.head_dim});
  }
  add("self_attn.o_proj.weight", {hidden, config.q_size()});
  add("post_attention_layernorm.weight", {hidden});
  add("mlp.gate_proj.weight", {config.intermediate_size, hidden});
  add("mlp.up_proj.weight", {config.intermediate_size, hidden});
  add("mlp.down_proj.weight", {hidden, config.intermediate_size});
}

}  // namespace

std::vector<ModelTensor> ModelTensors(const ModelConfig& config) {
  return ModelTensors(config, {0, config.num_layers});
}

std::vector<ModelTensor> ModelTensors(const ModelConfig& config, LayerRange range) {
  const bool is_first = range.first == 0;
  const bool is_last = range.last == config.num_layers;
  const Shape table{config.vocab_size, config.hidden_size};
  std::vector<ModelTensor> tensors;
  if (is_first || (is_last && config.tied_embeddings)) {
    tensors.push_back({"embed_tokens.weight", table});
  }
  for (int64_t i = range.first; i < range.last; ++i) AddLayer(config, i, &tensors);
  if (!is_last) return tensors;
  tensors.push_back({"norm.weight", {config.hidden_size}});
  if (!config.tied_embeddings) tensors.push_back({"lm_head.weight", table});
  return tensors;
}

int64_t NumParameters(const ModelConfig& config) {
  return NumParameters(config, {0, config.num_layers});
}

int64_t NumParameters(const ModelConfig& config, LayerRange range) {
  int64_t sum = 0;
  for (const ModelTensor& tensor : ModelTensors(config, range)) sum += tensor.shape.num_elements();
  return sum;
}

}  // namespace penstock
