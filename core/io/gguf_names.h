// The names of a Llama model's tensors: Penstock's canonical ones and those in GGUF files.
// Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace penstock {

// "layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight"; nothing if it is no such name.
std::optional<std::string> GgufTensorName(std::string_view canonical);

// The way back: nothing for a tensor that the Llama models here have no use for, and for one of a
// layer beyond `num_layers`.
std::optional<std::string> CanonicalTensorName(std::string_view gguf, int64_t num_layers);

}  // namespace penstock
