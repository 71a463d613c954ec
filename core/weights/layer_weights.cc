#include "core/weights/layer_weights.h"

namespace penstock {
namespace {

std::string Join(std::string_view prefix, std::string_view name) {
  return absl::StrCat(Abs(prefix), ".", Abs(name));
}

}  // namespace

absl::Status NormWeight::Load(const WeightLoader& loader, std::string_view prefix) {
  // The gains of a head's norm stand in the order of its rows.
  const int64_t rope_heads = size == &ModelConfig::head_dim ? 1 : 0;
  PENSTOCK_ASSIGN_OR_RETURN(
      gain, PackVectors(loader, {{std::string(prefix), loader.config.*size, rope_heads}}));
  return absl::OkStatus();
}

absl::Status EmbeddingWeight::Load(const WeightLoader& loader, std::string_view prefix) {
  const ModelConfig& config = loader.config;
  PENSTOCK_ASSIGN_OR_RETURN(table,
                            loader.Get(prefix, Shape({config.vocab_size, config.hidden_size})));
  return absl::OkStatus();
}

absl::Status AttentionWeight::Load(const WeightLoader& loader, std::string_view prefix) {
  const ModelConfig& config = loader.config;
  const std::string q = Join(prefix, "q_proj");
  const std::string k = Join(prefix, "k_proj");
  const std::string v = Join(prefix, "v_proj");
  const auto parts = [&](std::string_view name) -> std::vector<WeightPart> {
    return {{Join(q, name), config.q_size(), config.num_heads},
            {Join(k, name), config.kv_size(), config.num_kv_heads},
            {Join(v, name), config.kv_size()}};
  };
  PENSTOCK_ASSIGN_OR_RETURN(qkv, PackRows(loader, parts("weight"), config.hidden_size));
  if (config.qkv_bias) {
    PENSTOCK_ASSIGN_OR_RETURN(qkv_bias, PackVectors(loader, parts("bias")));
  } else if (loader.source.Contains(Join(q, "bias"))) {
    return absl::InvalidArgumentError(absl::StrCat(
        "there is a tensor '", Join(q, "bias"),
        "', but the model's configuration has no QKV bias: without it the answers would be wrong"));
  }
  if (config.qk_norm) {
    PENSTOCK_RETURN_IF_ERROR(q_norm.Load(loader, Join(prefix, "q_norm.weight")));
    PENSTOCK_RETURN_IF_ERROR(k_norm.Load(loader, Join(prefix, "k_norm.weight")));
  }
  PENSTOCK_ASSIGN_OR_RETURN(output, loader.Get(Join(prefix, "o_proj.weight"),
                                               Shape({config.hidden_size, config.q_size()})));
  return absl::OkStatus();
}

int64_t AttentionWeight::bytes() const {
  return qkv.bytes() + (qkv_bias.empty() ? 0 : qkv_bias.bytes()) + q_norm.bytes() + k_norm.bytes() +
         output.bytes();
}

absl::Status FfnWeight::Load(const WeightLoader& loader, std::string_view prefix) {
  const ModelConfig& config = loader.config;
  PENSTOCK_ASSIGN_OR_RETURN(gate_up,
                            PackRows(loader,
                                     {{Join(prefix, "gate_proj.weight"), config.intermediate_size},
                                      {Join(prefix, "up_proj.weight"), config.intermediate_size}},
                                     config.hidden_size));
  PENSTOCK_ASSIGN_OR_RETURN(down,
                            loader.Get(Join(prefix, "down_proj.weight"),
                                       Shape({config.hidden_size, config.intermediate_size})));
  return absl::OkStatus();
}

absl::Status LayerWeight::Load(const WeightLoader& loader, std::string_view prefix) {
  PENSTOCK_RETURN_IF_ERROR(input_norm.Load(loader, Join(prefix, "input_layernorm.weight")));
  PENSTOCK_RETURN_IF_ERROR(attention.Load(loader, Join(prefix, "self_attn")));
  PENSTOCK_RETURN_IF_ERROR(
      post_attention_norm.Load(loader, Join(prefix, "post_attention_layernorm.weight")));
  return ffn.Load(loader, Join(prefix, "mlp"));
}

int64_t LayerWeight::bytes() const {
  return input_norm.bytes() + attention.bytes() + post_attention_norm.bytes() + ffn.bytes();
}

}  // namespace penstock
