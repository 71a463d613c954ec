#include "core/io/gguf_names.h"

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

std::optional<std::string> Translate(std::string_view name, Column from, Column to,
                                     int64_t num_layers) {
  for (const Names& names : kModelNames) {
    if (name == names.*from) return std::string(names.*to);
  }
  const std::string_view prefix = kLayerPrefix.*from;
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  const size_t dot = name.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const auto layer = ParseLayer(name.substr(0, dot));
  if (!layer || *layer >= num_layers) return std::nullopt;
  for (const Names& names : kLayerNames) {
    if (name.substr(dot + 1) == names.*from) {
      return absl::StrCat(Abs(kLayerPrefix.*to), *layer, ".", Abs(names.*to));
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> GgufTensorName(std::string_view canonical) {
  return Translate(canonical, &Names::canonical, &Names::gguf, INT64_MAX);
}

std::optional<std::string> CanonicalTensorName(std::string_view gguf, int64_t num_layers) {
  return Translate(gguf, &Names::gguf, &Names::canonical, num_layers);
}

}  // namespace penstock
