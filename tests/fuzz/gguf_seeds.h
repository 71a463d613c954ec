// What gguf_fuzz begins with, and the words of the format.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/gguf_format.h"
#include "tests/fuzz/random.h"
#include "tests/support/gguf_builder.h"

namespace penstock::fuzz {

// Keys, names and values that readers look for.
inline Words GgufWords() {
  Words words = {"general.architecture",
                 "general.alignment",
                 "general.name",
                 "llama",
                 "qwen2",
                 "qwen3",
                 "gpt2",
                 "smollm",
                 "llama-bpe",
                 "default",
                 "none",
                 "linear",
                 "yarn",
                 "a b",
                 "ab",
                 "<|im_end|>",
                 "</s>",
                 "<0x41>",
                 "\xe2\x96\x81",
                 "rope_freqs.weight",
                 "output.weight",
                 "token_embd.weight",
                 "blk.1.attn_q.weight",
                 "blk.0.attn_q.bias",
                 "blk.0.attn_q_norm.weight",
                 "blk.0.ffn_gate_inp.weight"};
  for (const std::string_view key :
       {"block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.key_length",
        "attention.value_length", "attention.sliding_window", "attention.layer_norm_rms_epsilon",
        "rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
        "rope.scale_linear", "rope.scaling.original_context_length", "expert_count"}) {
    words.push_back("llama." + std::string(key));
  }
  for (const std::string_view key :
       {"model", "pre", "tokens", "token_type", "merges", "scores", "bos_token_id", "eos_token_id",
        "eot_token_id", "eom_token_id", "add_bos_token", "add_space_prefix",
        "remove_extra_whitespaces", "precompiled_charsmap"}) {
    words.push_back("tokenizer.ggml." + std::string(key));
  }
  words.emplace_back("tokenizer.chat_template");
  return words;
}

// One tensor of each element type, one block each.
inline GgufBuilder EveryType() {
  GgufBuilder builder;
  for (uint32_t code = 0; code < 64; ++code) {
    const auto type = GgufElementType(code);
    if (!type) continue;
    const DataTypeInfo info = Info(*type);
    builder.Tensor(info.name, {static_cast<uint64_t>(info.block)}, code,
                   std::vector<uint8_t>(static_cast<size_t>(info.block_bytes), 0x3c));
  }
  return builder;
}

// A key of each type, and arrays.
inline GgufBuilder EveryValue() {
  GgufBuilder builder;
  for (uint32_t type = 0; type <= kGgufF64; ++type) {
    const auto bytes = GgufScalarBytes(type);
    if (!bytes) continue;
    GgufBytes value;
    for (int64_t i = 0; i < *bytes; ++i) value.Put<uint8_t>(i == 0 ? 1 : 0);
    builder.Value(GgufTypeName(type), type, value);
    builder.Value(GgufTypeName(type) + "s", kGgufArray,
                  GgufBytes().Put(type).Put<uint64_t>(1).Append(value.bytes));
  }
  return builder.String("string", "a").Strings("strings", {"a", ""}).Alignment(64);
}

// All that is read but weights: a configuration with what its architecture may have besides, and a
// tokenizer of the kind.
inline GgufBuilder SmallFile(const std::string& architecture, const std::string& tokenizer) {
  GgufBuilder builder;
  const std::string prefix = architecture + ".";
  builder.String("general.architecture", architecture).Int(prefix + "block_count", 1);
  builder.Int(prefix + "context_length", 128).Int(prefix + "embedding_length", 32);
  builder.Int(prefix + "feed_forward_length", 64).Int(prefix + "attention.head_count", 2);
  builder.Float(prefix + "attention.layer_norm_rms_epsilon", 1e-5f);
  if (architecture == "llama") {
    builder.Float(prefix + "rope.scaling.factor", 2.0f).F32Tensor("rope_freqs.weight", {8}, 1.0f);
    builder.Int(prefix + "attention.sliding_window", 64);
  } else if (architecture == "qwen2") {
    builder.F32Tensor("blk.0.attn_q.bias", {32}, 0.0f);
  } else {
    builder.F32Tensor("blk.0.attn_q_norm.weight", {16}, 1.0f);
  }
  builder.String("tokenizer.ggml.model", tokenizer).Int("tokenizer.ggml.bos_token_id", 1);
  builder.Strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "a", "b", "ab", "[PAD5]"});
  builder.Ints("tokenizer.ggml.token_type", {2, 3, 1, 1, 1, 4});
  builder.String("tokenizer.chat_template", "{{ messages }}");
  if (tokenizer == "llama") {
    GgufBytes scores;
    scores.Put<uint32_t>(kGgufF32).Put<uint64_t>(6);
    for (int i = 0; i < 6; ++i) scores.Put(static_cast<float>(-i));
    builder.Value("tokenizer.ggml.scores", kGgufArray, scores);
    return builder.Bool("tokenizer.ggml.add_space_prefix", false);
  }
  builder.Strings("tokenizer.ggml.merges", {"a b"});
  return builder.String("tokenizer.ggml.pre", architecture == "llama" ? "llama-bpe" : "qwen2");
}

inline Words GgufSeeds() {
  Words seeds;
  for (const GgufBuilder& builder :
       {TinyLlamaGguf(), EveryType(), EveryValue(), SmallFile("llama", "llama"),
        SmallFile("llama", "gpt2"), SmallFile("qwen2", "gpt2"), SmallFile("qwen3", "gpt2")}) {
    const std::vector<uint8_t> bytes = builder.Build();
    seeds.emplace_back(bytes.begin(), bytes.end());
  }
  return seeds;
}

}  // namespace penstock::fuzz
