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
  std::vector<ModelTensor> tensors;
  tensors.push_back({"embed_tokens.weight", {config.vocab_size, config.hidden_size}});
  for (int64_t i = 0; i < config.num_layers; ++i) AddLayer(config, i, &tensors);
  tensors.push_back({"norm.weight", {config.hidden_size}});
  if (!config.tied_embeddings) {
    tensors.push_back({"lm_head.weight", {config.vocab_size, config.hidden_size}});
  }
  return tensors;
}

int64_t NumParameters(const ModelConfig& config) {
  int64_t sum = 0;
  for (const ModelTensor& tensor : ModelTensors(config)) sum += tensor.shape.num_elements();
  return sum;
}

}  // namespace penstock
