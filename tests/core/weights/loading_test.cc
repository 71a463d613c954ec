// What the weight classes ask of a source, and what they make of what they get, at the level of a
// layer and of a model, from tensors in memory and from the dummy source.
#include "core/io/dummy_weights.h"
#include "core/model/llama/llama_weight.h"
#include "tests/support/memory_source.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

// Everything that a family may have, and heads that are not hidden_size / num_heads wide.
ModelConfig FullConfig() {
  ModelConfig config;
  config.architecture = "qwen3";
  config.hidden_size = 24;
  config.intermediate_size = 40;
  config.num_layers = 4;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 50;
  config.context_length = 64;
  config.qkv_bias = true;
  config.qk_norm = true;
  return config;
}

std::vector<uint8_t> AllBytes(const Tensor& tensor) {
  const auto* data = static_cast<const uint8_t*>(tensor.raw());
  return {data, data + tensor.bytes()};
}

std::vector<uint8_t> AllBytes(const PackedWeight& weight) {
  std::vector<uint8_t> all;
  for (const Tensor& tensor : weight.tensors) {
    const std::vector<uint8_t> bytes = AllBytes(tensor);
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  return all;
}

void ExpectEqual(const LayerWeight& a, const LayerWeight& b) {
  EXPECT_EQ(AllBytes(a.input_norm.gain), AllBytes(b.input_norm.gain));
  EXPECT_EQ(AllBytes(a.attention.qkv), AllBytes(b.attention.qkv));
  EXPECT_EQ(AllBytes(a.attention.qkv_bias), AllBytes(b.attention.qkv_bias));
  EXPECT_EQ(AllBytes(a.attention.q_norm.gain), AllBytes(b.attention.q_norm.gain));
  EXPECT_EQ(AllBytes(a.attention.k_norm.gain), AllBytes(b.attention.k_norm.gain));
  EXPECT_EQ(AllBytes(a.attention.output), AllBytes(b.attention.output));
  EXPECT_EQ(AllBytes(a.post_attention_norm.gain), AllBytes(b.post_attention_norm.gain));
  EXPECT_EQ(AllBytes(a.ffn.gate_up), AllBytes(b.ffn.gate_up));
  EXPECT_EQ(AllBytes(a.ffn.down), AllBytes(b.ffn.down));
}

// Slices of one layer and of several: together they are the whole.
void ExpectSlicesAreTheWhole(const WeightLoader& loader) {
  const int64_t layers = loader.config.num_layers;
  LlamaWeight whole({0, layers});
  ASSERT_TRUE(IsOk(whole.Load(loader, "")));
  int64_t bytes = 0;
  for (const LayerRange range : {LayerRange{0, 1}, LayerRange{1, 3}, LayerRange{3, layers}}) {
    LlamaWeight slice(range);
    ASSERT_TRUE(IsOk(slice.Load(loader, "")));
    ASSERT_EQ(slice.layers.size(), static_cast<size_t>(range.count()));
    for (int64_t i = range.first; i < range.last; ++i) {
      ExpectEqual(slice.layers[static_cast<size_t>(i - range.first)],
                  whole.layers[static_cast<size_t>(i)]);
    }
    if (range.first == 0) {
      EXPECT_EQ(AllBytes(slice.embedding.table), AllBytes(whole.embedding.table));
    }
    if (range.last == layers) {
      EXPECT_EQ(AllBytes(slice.norm.gain), AllBytes(whole.norm.gain));
      EXPECT_EQ(AllBytes(slice.lm_head), AllBytes(whole.lm_head));
    }
    bytes += slice.bytes();
  }
  // Tied embeddings stand in the first slice and, as the LM head, in the last.
  const int64_t twice = loader.config.tied_embeddings ? whole.embedding.bytes() : 0;
  EXPECT_EQ(bytes, whole.bytes() + twice);
}

TEST(Loading, SlicesOfRealWeightsAreTheWhole) {
  for (const bool tied : {false, true}) {
    ModelConfig config = FullConfig();
    config.tied_embeddings = tied;
    MemorySource source;
    PutModel(config, DataType::kBF16, DataType::kBF16, source);
    ASSERT_NO_FATAL_FAILURE(ExpectSlicesAreTheWhole({source, config, Allocator()}));
  }
}

TEST(Loading, SlicesOfDummyWeightsAreTheWhole) {
  for (const bool tied : {false, true}) {
    ModelConfig config = FullConfig();
    config.tied_embeddings = tied;
    const auto source = MakeDummyWeightSource(5, config, DataType::kBF16, Allocator());
    ASSERT_NO_FATAL_FAILURE(ExpectSlicesAreTheWhole({*source, config, Allocator()}));
  }
}

TEST(Loading, ALayerLoadsAloneFromEitherSource) {
  const ModelConfig config = FullConfig();
  MemorySource source;
  PutModel(config, DataType::kF32, DataType::kF32, source);
  const auto dummy = MakeDummyWeightSource(5, config, DataType::kF32, Allocator());
  const WeightSource* const sources[] = {&source, dummy.get()};
  for (const WeightSource* from : sources) {
    LayerWeight layer;
    ASSERT_TRUE(IsOk(layer.Load({*from, config, Allocator()}, "layers.2")));
    const int64_t weights = config.qkv_size() * 24 + config.q_size() * 24 + 3 * 40 * 24;
    const int64_t vectors = 2 * 24 + config.qkv_size() + 2 * config.head_dim;
    EXPECT_EQ(layer.bytes(), 4 * (weights + vectors));
  }
}

// A worker touches no byte of another's layers.
TEST(Loading, OnlyTheTensorsOfTheLayersAskedForAreRead) {
  for (const bool tied : {false, true}) {
    ModelConfig config = FullConfig();
    config.tied_embeddings = tied;
    MemorySource source;
    PutModel(config, DataType::kF32, DataType::kF32, source);
    for (const LayerRange range : {LayerRange{0, 2}, LayerRange{2, 3}, LayerRange{3, 4}}) {
      source.Reset();
      LlamaWeight weight(range);
      ASSERT_TRUE(IsOk(weight.Load({source, config, Allocator()}, "")));
      const bool is_first = range.first == 0;
      const bool is_last = range.last == 4;
      size_t others = 0;
      for (const std::string& name : source.asked()) {
        bool mine = name == "embed_tokens.weight" && (is_first || (is_last && tied));
        mine = mine || (is_last && (name == "norm.weight" || name == "lm_head.weight"));
        others += mine ? 1 : 0;
        for (int64_t i = range.first; i < range.last; ++i) {
          mine = mine || name.starts_with(absl::StrCat("layers.", i, "."));
        }
        EXPECT_TRUE(mine) << name;
      }
      EXPECT_EQ(source.asked().size(), others + 14 * static_cast<size_t>(range.count()));
      EXPECT_EQ(source.asked_bytes(), weight.bytes()) << "each tensor once";
    }
  }
}

// Vectors of 16 bits become f32; matrices stay in place, but for those that are packed, whose
// originals are given back.
TEST(Loading, NormsAndBiasesBecomeFloat32) {
  const ModelConfig config = FullConfig();
  for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
    MemorySource source;
    PutModel(config, type, type, source);
    LlamaWeight weight({0, 4});
    ASSERT_TRUE(IsOk(weight.Load({source, config, Allocator()}, "")));
    const LayerWeight& layer = weight.layers[3];
    const auto original = [&](const std::string& name, int64_t size) {
      std::vector<float> values(static_cast<size_t>(size));
      Dequantize(type, source.Get(name, {size})->raw(), size, values.data());
      return values;
    };
    const std::string prefix = "layers.3.self_attn.";
    EXPECT_EQ(ToVector(layer.input_norm.gain), original("layers.3.input_layernorm.weight", 24));
    EXPECT_EQ(ToVector(layer.attention.q_norm.gain), original(prefix + "q_norm.weight", 8));
    EXPECT_EQ(ToVector(layer.attention.k_norm.gain), original(prefix + "k_norm.weight", 8));
    EXPECT_EQ(ToVector(weight.norm.gain), original("norm.weight", 24));
    std::vector<float> bias = original(prefix + "q_proj.bias", 32);
    for (const char* part : {"k_proj.bias", "v_proj.bias"}) {
      const std::vector<float> values = original(prefix + part, 16);
      bias.insert(bias.end(), values.begin(), values.end());
    }
    EXPECT_EQ(ToVector(layer.attention.qkv_bias), bias);
    const Tensor down = *source.Get("layers.3.mlp.down_proj.weight", {24, 40});
    EXPECT_EQ(layer.ffn.down.raw(), down.raw());
    EXPECT_EQ(layer.ffn.down.type(), type);
    EXPECT_EQ(layer.attention.qkv.tensors[0].type(), type);
    EXPECT_EQ(source.forgotten().count("layers.3.self_attn.q_proj.bias"), 1u);
    EXPECT_EQ(source.forgotten().count("layers.3.self_attn.q_proj.weight"), 1u);
    EXPECT_EQ(source.forgotten().count("layers.3.mlp.down_proj.weight"), 0u);
  }
}

// Where a file pairs rows (2i, 2i + 1), biases and head norms come in that order too.
TEST(Loading, BiasesAndHeadNormsFollowTheirRows) {
  const ModelConfig config = FullConfig();
  MemorySource source(WeightSource::RopeRows::kInterleaved);
  PutModel(config, DataType::kF32, DataType::kF32, source);
  LlamaWeight weight({0, 4});
  ASSERT_TRUE(IsOk(weight.Load({source, config, Allocator()}, "")));
  const AttentionWeight& attention = weight.layers[0].attention;
  const std::string prefix = "layers.0.self_attn.";
  const std::vector<float> q = ToVector(*source.Get(prefix + "q_proj.bias", {32}));
  const std::vector<float> k = ToVector(*source.Get(prefix + "k_proj.bias", {16}));
  const std::vector<float> v = ToVector(*source.Get(prefix + "v_proj.bias", {16}));
  const std::vector<float> gain = ToVector(*source.Get(prefix + "q_norm.weight", {8}));
  const std::vector<float> bias = ToVector(attention.qkv_bias);
  const std::vector<float> turned = ToVector(attention.q_norm.gain);
  for (size_t i = 0; i < 4; ++i) {
    for (size_t head = 0; head < 4; ++head) {
      EXPECT_EQ(bias[head * 8 + i], q[head * 8 + 2 * i]);
      EXPECT_EQ(bias[head * 8 + 4 + i], q[head * 8 + 2 * i + 1]);
    }
    EXPECT_EQ(bias[32 + 8 + i], k[8 + 2 * i]);
    EXPECT_EQ(bias[32 + 8 + 4 + i], k[8 + 2 * i + 1]);
    EXPECT_EQ(turned[i], gain[2 * i]);
    EXPECT_EQ(turned[4 + i], gain[2 * i + 1]);
  }
  EXPECT_TRUE(std::equal(v.begin(), v.end(), bias.begin() + 48));
}

TEST(Loading, WhatDoesNotFitIsRefusedWithItsName) {
  ModelConfig config = FullConfig();
  MemorySource source;
  PutModel(config, DataType::kF32, DataType::kF32, source);
  const auto load = [&] { return LlamaWeight({0, 4}).Load({source, config, Allocator()}, ""); };
  config.qkv_bias = false;  // the file has them all the same
  EXPECT_TRUE(Fails(load(), absl::StatusCode::kInvalidArgument,
                    {"layers.0.self_attn.q_proj.bias", "no QKV bias"}));
  config.qkv_bias = true;
  source.Put("layers.1.self_attn.k_proj.bias", Random({15}, 1));
  EXPECT_TRUE(
      Fails(load(), absl::StatusCode::kInvalidArgument, {"layers.1.self_attn.k_proj.bias"}));
  source.Put("layers.1.self_attn.k_proj.bias", Random({16}, 1));
  config.head_dim = 32;
  config.num_heads = 1;
  config.num_kv_heads = 1;
  MemorySource quantized;
  PutModel(config, DataType::kF32, DataType::kF32, quantized);
  quantized.Put("layers.0.self_attn.q_norm.weight", RandomBlocks(DataType::kQ8_0, {32}, 1));
  EXPECT_TRUE(Fails(LlamaWeight({0, 4}).Load({quantized, config, Allocator()}, ""),
                    absl::StatusCode::kUnimplemented,
                    {"layers.0.self_attn.q_norm.weight", "q8_0", "f32, f16 and bf16"}));
}

}  // namespace
}  // namespace penstock
