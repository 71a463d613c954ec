// A small Llama with random weights as a GGUF file on disk, for tests that need a model that
// computes: two layers, hidden size 64, 4 heads on 2 KV heads, context 256 unless told otherwise,
// 96 tokens, tied embeddings.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/base/check.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/tensors.h"

namespace penstock::testing {

inline constexpr int64_t kTinyVocab = 96;
inline constexpr int64_t kTinyContext = 256;

inline std::vector<uint8_t> Bytes(const Tensor& tensor) {
  const auto* data = static_cast<const uint8_t*>(tensor.raw());
  return {data, data + tensor.bytes()};
}

inline GgufBuilder TinyModel(uint32_t kv_heads = 2, bool v_as_q8_0 = false, uint32_t layers = 2,
                             uint32_t hidden = 64, uint32_t context = kTinyContext) {
  const uint32_t head_dim = hidden / 4;
  GgufBuilder builder;
  builder.String("general.architecture", "llama").String("general.name", "tiny");
  builder.Int("llama.block_count", layers).Int("llama.context_length", context);
  builder.Int("llama.embedding_length", hidden).Int("llama.feed_forward_length", 96);
  builder.Int("llama.attention.head_count", 4).Int("llama.attention.head_count_kv", kv_heads);
  builder.Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  builder.Float("llama.rope.freq_base", 10000.0f);
  builder.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "smollm");
  // The control tokens, then one token for each printable ASCII character but the last ones.
  std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  std::vector<int32_t> types = {3, 3, 3};
  for (char c = '!'; static_cast<int64_t>(tokens.size()) < kTinyVocab && c <= '~'; ++c) {
    tokens.emplace_back(1, c);
    types.push_back(1);
  }
  while (static_cast<int64_t>(tokens.size()) < kTinyVocab) {
    tokens.push_back("<unused" + std::to_string(tokens.size()) + ">");
    types.push_back(5);
  }
  builder.Strings("tokenizer.ggml.tokens", tokens).Ints("tokenizer.ggml.token_type", types);
  builder.Strings("tokenizer.ggml.merges", {});
  builder.Int("tokenizer.ggml.eos_token_id", 2).Bool("tokenizer.ggml.add_bos_token", false);

  uint32_t seed = 100;
  const auto linear = [&](const std::string& name, uint64_t in, uint64_t out) {
    const Shape shape({static_cast<int64_t>(out), static_cast<int64_t>(in)});
    builder.Tensor(name, {in, out}, 3, Bytes(RandomBlocks(DataType::kQ4_1, shape, ++seed)));
  };
  const auto norm = [&](const std::string& name) {
    builder.Tensor(name, {hidden}, 0, Bytes(Random({hidden}, ++seed)));
  };
  builder.Tensor("token_embd.weight", {hidden, kTinyVocab}, 8,
                 Bytes(RandomBlocks(DataType::kQ8_0, {kTinyVocab, hidden}, 7)));
  for (uint32_t layer = 0; layer < layers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    norm(prefix + "attn_norm.weight");
    linear(prefix + "attn_q.weight", hidden, hidden);
    linear(prefix + "attn_k.weight", hidden, head_dim * kv_heads);
    if (v_as_q8_0) {
      const int64_t rows = head_dim * kv_heads;
      builder.Tensor(prefix + "attn_v.weight", {hidden, head_dim * kv_heads}, 8,
                     Bytes(RandomBlocks(DataType::kQ8_0, {rows, hidden}, ++seed)));
    } else {
      linear(prefix + "attn_v.weight", hidden, head_dim * kv_heads);
    }
    linear(prefix + "attn_output.weight", hidden, hidden);
    norm(prefix + "ffn_norm.weight");
    linear(prefix + "ffn_gate.weight", hidden, 96);
    linear(prefix + "ffn_up.weight", hidden, 96);
    linear(prefix + "ffn_down.weight", 96, hidden);
  }
  norm("output_norm.weight");
  return builder;
}

// A model whose embedding of token 5 is NaN, its LM head is sound.
inline std::vector<uint8_t> ModelWithABrokenToken(uint32_t layers = 2) {
  const Shape shape({kTinyVocab, 64});
  GgufBuilder builder = TinyModel(2, false, layers);
  builder.Tensor("output.weight", {64, kTinyVocab}, 8,
                 Bytes(RandomBlocks(DataType::kQ8_0, shape, 77)));
  std::vector<uint8_t> file = builder.Build();
  const std::vector<uint8_t> embedding = Bytes(RandomBlocks(DataType::kQ8_0, shape, 7));
  const auto found = std::search(file.begin(), file.end(), embedding.begin(), embedding.end());
  PENSTOCK_CHECK(found != file.end());
  const int64_t token = 5 * 2 * static_cast<int64_t>(sizeof(BlockQ8_0));  // two blocks a row
  found[token] = 0x00;  // the block's scale, a half: NaN
  found[token + 1] = 0x7e;
  return file;
}

// Writes bytes to a file of its own that is removed at the end.
class TempFile {
 public:
  explicit TempFile(const std::vector<uint8_t>& bytes) {
    std::string name = (std::filesystem::temp_directory_path() / "penstock_XXXXXX").string();
    const int fd = mkstemp(name.data());
    PENSTOCK_CHECK_GE(fd, 0);
    close(fd);
    path_ = name;
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  ~TempFile() { std::remove(path_.c_str()); }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace penstock::testing
