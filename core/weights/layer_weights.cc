#include "core/weights/layer_weights.h"

namespace penstock {
namespace {

std::string Join(std::string_view prefix, std::string_view name) {
  return absl::StrCat(Abs(prefix), ".", Abs(name));
}

}  // namespace

absl::Status NormWeight::Load(const WeightLoader& loader, std::string_view prefix) {
  PENSTOCK_ASSIGN_OR_RETURN(gain, loader.source.Get(prefix, Shape({loader.config.hidden_size})));
  if (gain.type() != DataType::kF32) {
    return absl::UnimplementedError(absl::StrCat("'", Abs(prefix), "' is ", Abs(Name(gain.type())),
                                                 "; norms are supported as f32 only"));
  }
  return absl::OkStatus();
}

absl::Status EmbeddingWeight::Load(const WeightLoader& loader, std::string_view prefix) {
  const ModelConfig& config = loader.config;
  PENSTOCK_ASSIGN_OR_RETURN(
      table, loader.source.Get(prefix, Shape({config.vocab_size, config.hidden_size})));
  return absl::OkStatus();
}

absl::Status AttentionWeight::Load(const WeightLoader& loader, std::string_view prefix) {
  const ModelConfig& config = loader.config;
  const std::string q = Join(prefix, "q_proj");
  const std::string k = Join(prefix, "k_proj");
  const std::string v = Join(prefix, "v_proj");
  PENSTOCK_ASSIGN_OR_RETURN(qkv,
                            PackRows(loader,
                                     {{Join(q, "weight"), config.q_size(), config.num_heads},
                                      {Join(k, "weight"), config.kv_size(), config.num_kv_heads},
                                      {Join(v, "weight"), config.kv_size()}},
                                     config.hidden_size));
  PENSTOCK_ASSIGN_OR_RETURN(output,
                            loader.source.Get(Join(prefix, "o_proj.weight"),
                                              Shape({config.hidden_size, config.q_size()})));
  if (loader.source.Contains(Join(q, "bias"))) {
    return absl::UnimplementedError(
        absl::StrCat("'", Join(q, "bias"), "': models with a QKV bias are not supported yet"));
  }
  return absl::OkStatus();
}

int64_t AttentionWeight::bytes() const {
  return qkv.bytes() + output.bytes() + (qkv_bias.empty() ? 0 : qkv_bias.bytes());
}

absl::Status FfnWeight::Load(const WeightLoader& loader, std::string_view prefix) {
  const ModelConfig& config = loader.config;
  PENSTOCK_ASSIGN_OR_RETURN(gate_up,
                            PackRows(loader,
                                     {{Join(prefix, "gate_proj.weight"), config.intermediate_size},
                                      {Join(prefix, "up_proj.weight"), config.intermediate_size}},
                                     config.hidden_size));
  PENSTOCK_ASSIGN_OR_RETURN(
      down, loader.source.Get(Join(prefix, "down_proj.weight"),
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
