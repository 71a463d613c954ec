// GgufBuilder: small GGUF files in memory, well-formed unless told otherwise. For tests only.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/base/status.h"
#include "core/io/gguf.h"
#include "core/io/gguf_format.h"
#include "core/tensor/dequantize.h"

namespace penstock {

// Bytes with the format's little-endian scalars and length-prefixed strings.
class GgufBytes {
 public:
  template <typename T>
  GgufBytes& Put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    uint8_t raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    for (const uint8_t byte : raw) bytes.push_back(byte);
    return *this;
  }
  GgufBytes& PutString(std::string_view text) {
    Put<uint64_t>(text.size());
    bytes.insert(bytes.end(), text.begin(), text.end());
    return *this;
  }
  GgufBytes& Append(const std::vector<uint8_t>& more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
    return *this;
  }
  void PadTo(size_t unit) { bytes.resize((bytes.size() + unit - 1) / unit * unit); }

  std::vector<uint8_t> bytes;
};

class GgufBuilder {
 public:
  // Any value: its type code and the bytes after it. A key that is there already is replaced.
  GgufBuilder& Value(std::string_view key, uint32_t type, const GgufBytes& value) {
    Remove(key);
    return DuplicateValue(key, type, value);
  }
  GgufBuilder& DuplicateValue(std::string_view key, uint32_t type, const GgufBytes& value) {
    GgufBytes entry;
    entry.PutString(key).Put(type).Append(value.bytes);
    values_.push_back({std::string(key), std::move(entry.bytes)});
    return *this;
  }
  GgufBuilder& Remove(std::string_view key) {
    std::erase_if(values_, [key](const Entry& entry) { return entry.name == key; });
    return *this;
  }
  // Keys that open with `from` open with `to` instead: the same model of another architecture.
  GgufBuilder Renamed(std::string_view from, std::string_view to) const {
    GgufBuilder renamed = *this;
    for (Entry& entry : renamed.values_) {
      if (!entry.name.starts_with(from)) continue;
      const std::vector<uint8_t> rest(
          entry.bytes.begin() + static_cast<std::ptrdiff_t>(sizeof(uint64_t) + entry.name.size()),
          entry.bytes.end());
      entry.name = std::string(to) + entry.name.substr(from.size());
      entry.bytes = GgufBytes().PutString(entry.name).Append(rest).bytes;
    }
    return renamed;
  }
  GgufBuilder& Int(std::string_view key, uint32_t value) {
    return Value(key, kGgufU32, GgufBytes().Put(value));
  }
  GgufBuilder& Float(std::string_view key, float value) {
    return Value(key, kGgufF32, GgufBytes().Put(value));
  }
  GgufBuilder& Bool(std::string_view key, bool value) {
    return Value(key, kGgufBool, GgufBytes().Put<uint8_t>(value ? 1 : 0));
  }
  GgufBuilder& String(std::string_view key, std::string_view value) {
    return Value(key, kGgufString, GgufBytes().PutString(value));
  }
  GgufBuilder& Strings(std::string_view key, const std::vector<std::string>& values) {
    GgufBytes bytes;
    bytes.Put<uint32_t>(kGgufString).Put<uint64_t>(values.size());
    for (const std::string& value : values) bytes.PutString(value);
    return Value(key, kGgufArray, bytes);
  }
  GgufBuilder& Ints(std::string_view key, const std::vector<int32_t>& values) {
    GgufBytes bytes;
    bytes.Put<uint32_t>(kGgufI32).Put<uint64_t>(values.size());
    for (const int32_t value : values) bytes.Put(value);
    return Value(key, kGgufArray, bytes);
  }

  // A tensor with its bytes; dimensions as in the file, innermost first.
  GgufBuilder& Tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                      const std::vector<uint8_t>& data) {
    GgufBytes padded;
    padded.Append(data_.bytes).PadTo(alignment_);
    data_ = padded;
    RawTensor(name, dims, type, data_.bytes.size());
    data_.Append(data);
    return *this;
  }
  // A tensor's description alone, as false as it may be.
  GgufBuilder& RawTensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                         uint64_t offset) {
    GgufBytes info;
    info.PutString(name).Put(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) info.Put(dim);
    info.Put(type).Put(offset);
    tensors_.push_back({std::string(name), std::move(info.bytes)});
    return *this;
  }
  // float32 counting up from `first`.
  GgufBuilder& F32Tensor(std::string_view name, const std::vector<uint64_t>& dims, float first) {
    uint64_t count = 1;
    for (const uint64_t dim : dims) count *= dim;
    GgufBytes data;
    for (uint64_t i = 0; i < count; ++i) data.Put(first + static_cast<float>(i));
    return Tensor(name, dims, 0, data.bytes);
  }

  GgufBuilder& Alignment(uint32_t alignment) {
    alignment_ = alignment;
    return Int("general.alignment", alignment);
  }
  // What the header says, instead of what is there.
  GgufBuilder& Header(std::string_view magic, uint32_t version) {
    magic_ = std::string(magic);
    version_ = version;
    return *this;
  }
  GgufBuilder& Counts(std::optional<uint64_t> tensors, std::optional<uint64_t> keys) {
    num_tensors_ = tensors;
    num_keys_ = keys;
    return *this;
  }

  std::vector<uint8_t> Build() const {
    GgufBytes file;
    file.bytes.assign(magic_.begin(), magic_.end());
    file.Put(version_);
    file.Put<uint64_t>(num_tensors_.value_or(tensors_.size()));
    file.Put<uint64_t>(num_keys_.value_or(values_.size()));
    for (const Entry& entry : values_) file.Append(entry.bytes);
    for (const Entry& entry : tensors_) file.Append(entry.bytes);
    file.PadTo(alignment_);
    file.Append(data_.bytes);
    return std::move(file.bytes);
  }

 private:
  struct Entry {
    std::string name;
    std::vector<uint8_t> bytes;
  };

  std::string magic_ = std::string(kGgufMagic);
  uint32_t version_ = kGgufVersion;
  std::optional<uint64_t> num_tensors_;
  std::optional<uint64_t> num_keys_;
  size_t alignment_ = kGgufDefaultAlignment;
  std::vector<Entry> values_;
  std::vector<Entry> tensors_;
  GgufBytes data_;
};

inline absl::StatusOr<std::shared_ptr<const GgufFile>> ParseGguf(
    const std::vector<uint8_t>& bytes) {
  return GgufFile::Parse(MmapFile::FromBytes("model.gguf", bytes));
}

// A whole model of one layer: hidden size 32, 2 heads on 1 KV head, 8 tokens. Linear layers are
// Q4_1, the embedding table Q8_0, norms F32; the LM head is tied. Quantized bytes are a pattern.
inline GgufBuilder TinyLlamaGguf() {
  GgufBuilder builder;
  builder.String("general.architecture", "llama").String("general.name", "tiny");
  builder.Int("llama.block_count", 1).Int("llama.context_length", 128);
  builder.Int("llama.embedding_length", 32).Int("llama.feed_forward_length", 64);
  builder.Int("llama.attention.head_count", 2).Int("llama.attention.head_count_kv", 1);
  builder.Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  builder.Float("llama.rope.freq_base", 500.0f).Int("llama.rope.dimension_count", 16);
  builder.Int("llama.vocab_size", 8);
  builder.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "smollm");
  builder.Strings("tokenizer.ggml.tokens",
                  {"<|endoftext|>", "<|im_end|>", "a", "b", "ab", "<reponame>", "c", "</s>"});
  builder.Ints("tokenizer.ggml.token_type", {3, 3, 1, 1, 1, 3, 4, 1});
  builder.Strings("tokenizer.ggml.merges", {"a b"});
  builder.Int("tokenizer.ggml.bos_token_id", 0).Int("tokenizer.ggml.eos_token_id", 6);
  builder.Bool("tokenizer.ggml.add_bos_token", false);
  const auto pattern = [](size_t bytes) {
    std::vector<uint8_t> data(bytes);
    for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<uint8_t>(i * 37 % 120);
    return data;
  };
  const auto linear = [&](std::string_view name, uint64_t in, uint64_t out) {
    builder.Tensor(name, {in, out}, 3, pattern(in * out / 32 * sizeof(BlockQ4_1)));
  };
  builder.Tensor("token_embd.weight", {32, 8}, 8, pattern(32 * 8 / 32 * sizeof(BlockQ8_0)));
  builder.F32Tensor("blk.0.attn_norm.weight", {32}, 1.0f);
  linear("blk.0.attn_q.weight", 32, 32);
  linear("blk.0.attn_k.weight", 32, 16);
  linear("blk.0.attn_v.weight", 32, 16);
  linear("blk.0.attn_output.weight", 32, 32);
  builder.F32Tensor("blk.0.ffn_norm.weight", {32}, 2.0f);
  linear("blk.0.ffn_gate.weight", 32, 64);
  linear("blk.0.ffn_up.weight", 32, 64);
  linear("blk.0.ffn_down.weight", 64, 32);
  builder.F32Tensor("output_norm.weight", {32}, 3.0f);
  return builder;
}

}  // namespace penstock
