// Fuzz target: any bytes as a GGUF file, and all that may be asked of it. What parses must be
// readable to its last byte; a sanitizer watches. Inputs begin as mutations of a small model.
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/io/gguf.h"
#include "core/tensor/dequantize.h"
#include "tests/fuzz/check_message.h"
#include "tests/fuzz/gguf_mutator.h"
#include "tests/fuzz/mutator.h"
#include "tests/support/gguf_builder.h"

namespace penstock {
namespace {

// Keys, names and values that readers look for.
fuzz::Words KnownWords() {
  fuzz::Words words = {"general.architecture",
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
        "eot_token_id", "eom_token_id", "add_bos_token", "add_space_prefix"}) {
    words.push_back("tokenizer.ggml." + std::string(key));
  }
  words.emplace_back("tokenizer.chat_template");
  return words;
}

// One tensor of each element type, one block each.
GgufBuilder EveryType() {
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
GgufBuilder EveryValue() {
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

fuzz::Words Seeds() {
  fuzz::Words seeds;
  for (const GgufBuilder& builder : {TinyLlamaGguf(), EveryType(), EveryValue()}) {
    const std::vector<uint8_t> bytes = builder.Build();
    seeds.emplace_back(bytes.begin(), bytes.end());
  }
  return seeds;
}

// What the tokenizers of such a file are asked.
void ReadTokenizer(const TokenizerSpec& spec) {
  PENSTOCK_CHECK_EQ(spec.tokens.size(), spec.types.size());
  for (const int32_t id : spec.end_ids) {
    PENSTOCK_CHECK_GE(id, 0);
    PENSTOCK_CHECK_LT(static_cast<size_t>(id), spec.tokens.size());
  }
  const auto tokenizer = MakeTokenizer(spec);
  if (!tokenizer.ok()) return;
  const auto ids = (*tokenizer)->Encode("a ab<|im_end|>\xc3\xa9", true);
  if (!ids.ok()) return;
  for (const int32_t id : *ids) PENSTOCK_CHECK_LT(static_cast<size_t>(id), spec.tokens.size());
}

// Each value as every type there is.
void ReadValues(const GgufFile& file) {
  for (const std::string_view key :
       {"u8", "i8s", "u16s", "i16", "u32", "i32", "f32", "f32s", "bool", "bools", "u64", "u64s",
        "i64s", "string", "strings", "none"}) {
    const bool found = file.GetInt(key).ok() + file.GetFloat(key).ok() + file.GetBool(key).ok() +
                           file.GetString(key).ok() + file.GetStrings(key).ok() +
                           file.GetInts(key).ok() >
                       0;
    PENSTOCK_CHECK(!found || file.HasKey(key));
  }
}

void ReadAll(const std::shared_ptr<const GgufFile>& file) {
  if (const auto config = ReadGgufConfig(*file); config.ok()) {
    PENSTOCK_CHECK(Validate(*config).ok());
    const auto source = MakeGgufWeightSource(file);
    const int64_t hidden = config->hidden_size;
    for (const auto& [name, rows] : std::initializer_list<std::pair<std::string_view, int64_t>>{
             {"embed_tokens.weight", config->vocab_size},
             {"lm_head.weight", config->vocab_size},
             {"layers.0.self_attn.q_proj.weight", config->q_size()},
             {"layers.1.mlp.gate_proj.weight", config->intermediate_size},
             {"layers.0.mlp.nothing", hidden}}) {
      const auto tensor = source->Get(name, Shape({rows, hidden}));
      PENSTOCK_CHECK(!tensor.ok() || source->Contains(name));
      if (tensor.ok()) source->Forget(*tensor);
    }
  }
  ReadValues(*file);
  if (const auto spec = ReadGgufTokenizer(*file); spec.ok()) ReadTokenizer(*spec);
  for (const std::string_view name : file->TensorNames()) {
    const Tensor tensor = *file->GetTensor(name);
    PENSTOCK_CHECK_LE(tensor.bytes(), file->file()->size());
    std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
    Dequantize(tensor.type(), tensor.raw(), tensor.num_elements(), values.data());
  }
}

}  // namespace
}  // namespace penstock

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file =
      penstock::GgufFile::Parse(penstock::MmapFile::FromBytes("fuzz.gguf", {data, size}));
  if (file.ok()) {
    penstock::ReadAll(*file);
  } else {
    penstock::fuzz::CheckMessage(file.status(), "fuzz.gguf");
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  using penstock::fuzz::Format;
  static const auto* const format =
      new Format{"GGUF", penstock::Seeds(), penstock::KnownWords(), penstock::fuzz::MutateGguf};
  return penstock::fuzz::Mutate(*format, data, size, max_size, seed);
}
