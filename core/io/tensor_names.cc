#include "core/io/tensor_names.h"

#include <charconv>

#include "core/base/status.h"

namespace penstock {
namespace {

struct Names {
  std::string_view canonical;
  std::string_view gguf;
};

constexpr Names kLayerPrefix = {"layers.", "blk."};

constexpr Names kModelNames[] = {
    {"embed_tokens.weight", "token_embd.weight"},
    {"norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
};

constexpr Names kLayerNames[] = {
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.q_proj.bias", "attn_q.bias"},
    {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.k_proj.bias", "attn_k.bias"},
    {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.v_proj.bias", "attn_v.bias"},
    {"self_attn.q_norm.weight", "attn_q_norm.weight"},
    {"self_attn.k_norm.weight", "attn_k_norm.weight"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
};

using Column = std::string_view Names::*;

// Only the number's one usual spelling ("7", not "07"), so that no two names mean one tensor.
std::optional<int64_t> ParseLayer(std::string_view text) {
  int64_t layer = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
  if (error != std::errc() || end != text.data() + text.size() || layer < 0) return std::nullopt;
  if (text.size() > 1 && text[0] == '0') return std::nullopt;
  return layer;
}

struct LayerName {
  int64_t layer;
  std::string_view tail;
};

std::optional<LayerName> SplitLayerName(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  const size_t dot = name.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const auto layer = ParseLayer(name.substr(0, dot));
  if (!layer) return std::nullopt;
  return LayerName{*layer, name.substr(dot + 1)};
}

std::optional<std::string> Translate(std::string_view name, Column from, Column to) {
  for (const Names& names : kModelNames) {
    if (name == names.*from) return std::string(names.*to);
  }
  const auto split = SplitLayerName(name, kLayerPrefix.*from);
  if (!split) return std::nullopt;
  for (const Names& names : kLayerNames) {
    if (split->tail == names.*from) {
      return absl::StrCat(Abs(kLayerPrefix.*to), split->layer, ".", Abs(names.*to));
    }
  }
  return std::nullopt;
}

constexpr std::string_view kHfPrefix = "model.";
constexpr std::string_view kLmHead = "lm_head.weight";

}  // namespace

std::optional<std::string> GgufTensorName(std::string_view canonical) {
  return Translate(canonical, &Names::canonical, &Names::gguf);
}

std::optional<std::string> FromGgufTensorName(std::string_view gguf) {
  return Translate(gguf, &Names::gguf, &Names::canonical);
}

std::string HfTensorName(std::string_view canonical) {
  return canonical == kLmHead ? std::string(canonical)
                              : absl::StrCat(Abs(kHfPrefix), Abs(canonical));
}

std::optional<std::string_view> FromHfTensorName(std::string_view hf) {
  if (hf == kLmHead) return hf;
  if (!hf.starts_with(kHfPrefix)) return std::nullopt;
  return hf.substr(kHfPrefix.size());
}

bool IsTensorOf(const ModelConfig& config, std::string_view canonical) {
  for (const Names& names : kModelNames) {
    if (canonical == names.canonical) return canonical != kLmHead || !config.tied_embeddings;
  }
  const auto split = SplitLayerName(canonical, kLayerPrefix.canonical);
  if (!split || split->layer >= config.num_layers) return false;
  for (const Names& names : kLayerNames) {
    if (split->tail != names.canonical) continue;
    if (split->tail.ends_with("_proj.bias")) return config.qkv_bias;
    if (split->tail.ends_with("_norm.weight")) return config.qk_norm;
    return true;
  }
  return false;
}

}  // namespace penstock
