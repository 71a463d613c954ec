// ReadGgufConfig and ReadGgufTokenizer on small files.
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "core/io/gguf.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using absl::StatusCode;
using TokenType = TokenizerSpec::TokenType;

absl::StatusOr<ModelConfig> Config(const GgufBuilder& builder) {
  PENSTOCK_ASSIGN_OR_RETURN(const auto file, ParseGguf(builder.Build()));
  return ReadGgufConfig(*file);
}

absl::StatusOr<TokenizerSpec> Spec(const GgufBuilder& builder) {
  PENSTOCK_ASSIGN_OR_RETURN(const auto file, ParseGguf(builder.Build()));
  return ReadGgufTokenizer(*file);
}

TEST(GgufConfigTest, ReadsTheLlamaKeys) {
  const auto config = Config(TinyLlamaGguf());
  ASSERT_TRUE(IsOk(config));
  EXPECT_EQ(config->architecture, "llama");
  EXPECT_EQ(config->name, "tiny");
  EXPECT_EQ(config->num_layers, 1);
  EXPECT_EQ(config->hidden_size, 32);
  EXPECT_EQ(config->intermediate_size, 64);
  EXPECT_EQ(config->num_heads, 2);
  EXPECT_EQ(config->num_kv_heads, 1);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->vocab_size, 8);
  EXPECT_EQ(config->context_length, 128);
  EXPECT_EQ(config->rms_norm_eps, 1e-5f);
  EXPECT_EQ(config->rope_theta, 500.0f);
  EXPECT_TRUE(config->tied_embeddings);
}

TEST(GgufConfigTest, OptionalKeysHaveDefaults) {
  const auto config = Config(TinyLlamaGguf()
                                 .Remove("general.name")
                                 .Remove("llama.attention.head_count_kv")
                                 .Remove("llama.rope.freq_base")
                                 .Remove("llama.rope.dimension_count")
                                 .Remove("llama.vocab_size"));
  ASSERT_TRUE(IsOk(config));
  EXPECT_EQ(config->name, "");
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_EQ(config->rope_theta, 10000.0f);
  EXPECT_EQ(config->vocab_size, 8);  // the tokens
}

TEST(GgufConfigTest, AnLmHeadOfItsOwnIsNotTied) {
  const auto config = Config(TinyLlamaGguf().F32Tensor("output.weight", {32, 8}, 0));
  ASSERT_TRUE(IsOk(config));
  EXPECT_FALSE(config->tied_embeddings);
}

TEST(GgufConfigTest, KeyLengthIsTheHeadDim) {
  const auto config = Config(TinyLlamaGguf()
                                 .Int("llama.attention.key_length", 8)
                                 .Int("llama.attention.value_length", 8)
                                 .Int("llama.rope.dimension_count", 8));
  ASSERT_TRUE(IsOk(config));
  EXPECT_EQ(config->head_dim, 8);
}

TEST(GgufConfigTest, AVocabularyMayBePaddedButNotTooSmall) {
  const auto config = Config(TinyLlamaGguf().Int("llama.vocab_size", 32));
  ASSERT_TRUE(IsOk(config));
  EXPECT_EQ(config->vocab_size, 32);
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf().Int("llama.vocab_size", 7)),
                    StatusCode::kInvalidArgument,
                    {"model.gguf", "tokenizer.ggml.tokens holds 8", "llama.vocab_size is 7"}));
}

TEST(GgufConfigTest, ARequiredKeyThatIsMissingIsNamed) {
  for (const char* key : {"general.architecture", "llama.block_count", "llama.embedding_length",
                          "llama.feed_forward_length", "llama.attention.head_count",
                          "llama.context_length", "llama.attention.layer_norm_rms_epsilon"}) {
    EXPECT_TRUE(
        Fails(Config(TinyLlamaGguf().Remove(key)), StatusCode::kNotFound, {"model.gguf", key}));
  }
  EXPECT_TRUE(
      Fails(Config(TinyLlamaGguf().Remove("llama.vocab_size").Remove("tokenizer.ggml.tokens")),
            StatusCode::kNotFound, {"llama.vocab_size"}));
}

// CVE-2024-8063: a block count of 0 led to a division by it.
TEST(GgufConfigTest, ZeroAndHugeSizesAreRefusedForEveryKey) {
  for (const char* key :
       {"llama.block_count", "llama.embedding_length", "llama.feed_forward_length",
        "llama.attention.head_count", "llama.attention.head_count_kv", "llama.context_length",
        "llama.vocab_size", "llama.attention.key_length"}) {
    for (const uint64_t value :
         {uint64_t{0}, uint64_t{UINT32_MAX}, uint64_t{1} << 31, uint64_t{1} << 32,
          (uint64_t{1} << 63) - 1, uint64_t{1} << 63, UINT64_MAX - 3, UINT64_MAX}) {
      GgufBuilder builder = TinyLlamaGguf();
      builder.Value(key, kGgufU64, GgufBytes().Put(value));
      EXPECT_TRUE(Fails(Config(builder), StatusCode::kInvalidArgument, {"model.gguf"}))
          << key << " " << value;
    }
    GgufBuilder builder = TinyLlamaGguf();
    builder.Value(key, kGgufI32, GgufBytes().Put(int32_t{-1}));
    EXPECT_TRUE(Fails(Config(builder), StatusCode::kInvalidArgument, {"model.gguf"})) << key;
  }
}

TEST(GgufConfigTest, SizesThatContradictEachOtherAreRefused) {
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf().Int("llama.attention.head_count", 5)),
                    StatusCode::kInvalidArgument,
                    {"llama.embedding_length (32)", "head_count (5)", "key_length"}));
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf()
                               .Int("llama.attention.head_count", 8)
                               .Int("llama.attention.head_count_kv", 3)),
                    StatusCode::kInvalidArgument, {"num_heads is 8", "num_kv_heads (3)"}));
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf().Int("llama.attention.key_length", 33)),
                    StatusCode::kInvalidArgument, {"head_dim is 33", "even"}));
}

TEST(GgufConfigTest, FloatsThatAreNotPositiveNumbersAreRefused) {
  for (const float value : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity()}) {
    EXPECT_TRUE(
        Fails(Config(TinyLlamaGguf().Float("llama.attention.layer_norm_rms_epsilon", value)),
              StatusCode::kInvalidArgument, {"rms_norm_eps"}));
    EXPECT_TRUE(Fails(Config(TinyLlamaGguf().Float("llama.rope.freq_base", value)),
                      StatusCode::kInvalidArgument, {"rope_theta"}));
  }
}

TEST(GgufConfigTest, AnotherArchitectureIsUnimplemented) {
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf().String("general.architecture", "gemma3")),
                    StatusCode::kUnimplemented,
                    {"model.gguf", "'gemma3'", "'llama', 'qwen2', 'qwen3'"}));
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf().String("general.architecture", "\x1b[31m\n")),
                    StatusCode::kUnimplemented, {"\\x1b[31m\\n"}));
}

TEST(GgufConfigTest, LinearRopeScaling) {
  const auto scaling = [](const GgufBuilder& builder) { return Config(builder)->rope_scaling; };
  for (const char* key : {"llama.rope.scaling.factor", "llama.rope.scale_linear"}) {
    const RopeScaling old = scaling(TinyLlamaGguf().Float(key, 4.0f));
    EXPECT_EQ(old.type, RopeScaling::Type::kLinear);
    EXPECT_EQ(old.factor, 4.0f);
    for (const float none : {0.0f, 1.0f}) {
      EXPECT_EQ(scaling(TinyLlamaGguf().Float(key, none)).type, RopeScaling::Type::kNone);
    }
  }
  const auto typed = [](std::string_view type) {
    return TinyLlamaGguf()
        .String("llama.rope.scaling.type", type)
        .Float("llama.rope.scaling.factor", 4.0f);
  };
  EXPECT_EQ(scaling(typed("linear")).type, RopeScaling::Type::kLinear);
  EXPECT_EQ(scaling(typed("none")).type, RopeScaling::Type::kNone);
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf().String("llama.rope.scaling.type", "linear")),
                    StatusCode::kNotFound, {"llama.rope.scaling.factor"}));
  for (const float factor : {0.0f, -1.0f, std::numeric_limits<float>::infinity()}) {
    EXPECT_TRUE(Fails(Config(typed("linear").Float("llama.rope.scaling.factor", factor)),
                      StatusCode::kInvalidArgument, {"model.gguf", "rope_scaling.factor"}));
  }
}

TEST(GgufConfigTest, RopeFactorsAreATensor) {
  const auto config = Config(TinyLlamaGguf().F32Tensor("rope_freqs.weight", {8}, 1.0f));
  ASSERT_TRUE(IsOk(config));
  EXPECT_EQ(config->rope_scaling.type, RopeScaling::Type::kFactors);
  EXPECT_EQ(config->rope_scaling.factors, (std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}));
  const auto both = Config(TinyLlamaGguf()
                               .Float("llama.rope.scaling.factor", 2.0f)
                               .F32Tensor("rope_freqs.weight", {8}, 1.0f));
  ASSERT_TRUE(IsOk(both));
  EXPECT_EQ(both->rope_scaling.factors, (std::vector<float>{2, 4, 6, 8, 10, 12, 14, 16}));
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf().F32Tensor("rope_freqs.weight", {16}, 1.0f)),
                    StatusCode::kInvalidArgument, {"'rope_freqs.weight'", "[16]", "[8]"}));
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf().F32Tensor("rope_freqs.weight", {8}, 0.0f)),
                    StatusCode::kInvalidArgument, {"rope_scaling.factors is 0"}));
  EXPECT_TRUE(Fails(
      Config(TinyLlamaGguf().Tensor("rope_freqs.weight", {8}, 1, std::vector<uint8_t>(16, 60))),
      StatusCode::kInvalidArgument, {"'rope_freqs.weight' is f16"}));
}

TEST(GgufConfigTest, RopeThatIsNotComputedIsUnimplemented) {
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf().Int("llama.rope.dimension_count", 8)),
                    StatusCode::kUnimplemented, {"llama.rope.dimension_count is 8", "16"}));
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf().String("llama.rope.scaling.type", "yarn")),
                    StatusCode::kUnimplemented, {"RoPE scaling", "'yarn'", "'linear'"}));
}

TEST(GgufConfigTest, MistralIsALlamaWithASlidingWindow) {
  EXPECT_EQ(Config(TinyLlamaGguf())->sliding_window, 0);
  EXPECT_EQ(Config(TinyLlamaGguf().Int("llama.attention.sliding_window", 64))->sliding_window, 64);
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf().Value("llama.attention.sliding_window", kGgufI32,
                                                 GgufBytes().Put(int32_t{-1}))),
                    StatusCode::kInvalidArgument, {"sliding_window is -1"}));
}

TEST(GgufConfigTest, QwenHasKeysBiasesAndHeadNormsOfItsOwn) {
  GgufBuilder qwen2 = TinyLlamaGguf().Renamed("llama.", "qwen2.");
  qwen2.String("general.architecture", "qwen2");
  EXPECT_FALSE(Config(qwen2)->qkv_bias);
  qwen2.F32Tensor("blk.0.attn_q.bias", {32}, 0).F32Tensor("blk.0.attn_k.bias", {16}, 0);
  const auto config = Config(qwen2.F32Tensor("blk.0.attn_v.bias", {16}, 0));
  ASSERT_TRUE(IsOk(config));
  EXPECT_EQ(config->architecture, "qwen2");
  EXPECT_EQ(config->num_heads, 2);
  EXPECT_TRUE(config->qkv_bias);
  EXPECT_FALSE(config->qk_norm);
  EXPECT_TRUE(Fails(Config(qwen2.Int("qwen2.attention.sliding_window", 8)),
                    StatusCode::kUnimplemented, {"qwen2.attention.sliding_window is 8"}));

  GgufBuilder qwen3 = TinyLlamaGguf().Renamed("llama.", "qwen3.");
  qwen3.String("general.architecture", "qwen3").Int("qwen3.attention.key_length", 16);
  qwen3.F32Tensor("blk.0.attn_q_norm.weight", {16}, 0);
  const auto normed = Config(qwen3.F32Tensor("blk.0.attn_k_norm.weight", {16}, 0));
  ASSERT_TRUE(IsOk(normed));
  EXPECT_TRUE(normed->qk_norm);
  EXPECT_FALSE(normed->qkv_bias);
}

TEST(GgufConfigTest, OnlyTheLlamaArchitectureHasInterleavedRows) {
  const auto rows = [](const GgufBuilder& builder) {
    return MakeGgufWeightSource(*ParseGguf(builder.Build()))->rope_rows();
  };
  EXPECT_EQ(rows(TinyLlamaGguf()), WeightSource::RopeRows::kInterleaved);
  for (const char* architecture : {"qwen2", "qwen3"}) {
    EXPECT_EQ(rows(TinyLlamaGguf().String("general.architecture", architecture)),
              WeightSource::RopeRows::kHalves);
  }
}

TEST(GgufConfigTest, Version2IsReadAsVersion3) {
  EXPECT_TRUE(IsOk(Config(TinyLlamaGguf().Header("GGUF", 2))));
  EXPECT_TRUE(IsOk(Spec(TinyLlamaGguf().Header("GGUF", 2))));
}

TEST(GgufConfigTest, WhatTheForwardPassWouldIgnoreIsUnimplemented) {
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf().Int("llama.expert_count", 8)),
                    StatusCode::kUnimplemented, {"llama.expert_count is 8"}));
  EXPECT_TRUE(Fails(Config(TinyLlamaGguf().Int("llama.attention.value_length", 8)),
                    StatusCode::kUnimplemented, {"llama.attention.value_length is 8", "16"}));
  for (const char* name :
       {"blk.0.attn_output.bias", "blk.1.attn_q.weight", "blk.00.attn_q.weight", "blk.0.x"}) {
    EXPECT_TRUE(Fails(Config(TinyLlamaGguf().F32Tensor(name, {1}, 1.0f)),
                      StatusCode::kUnimplemented, {"model.gguf", name, "1 layers"}));
  }
}

TEST(GgufTokenizerTest, ReadsTheVocabulary) {
  const auto spec = Spec(TinyLlamaGguf());
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->model, "gpt2");
  EXPECT_EQ(spec->pre_tokenizer, "smollm");
  EXPECT_EQ(spec->tokens.size(), 8u);
  EXPECT_EQ(spec->tokens[4], "ab");
  EXPECT_EQ(spec->types[0], TokenType::kControl);
  EXPECT_EQ(spec->types[2], TokenType::kNormal);
  EXPECT_EQ(spec->types[6], TokenType::kUserDefined);
  EXPECT_EQ(spec->merges, std::vector<std::string>{"a b"});
  EXPECT_EQ(spec->bos_id, 0);
  EXPECT_FALSE(spec->add_bos);
}

TEST(GgufTokenizerTest, EndIdsAreTheKeysAndTheKnownControlTokens) {
  // Token 6 by eos_token_id; 0, 1 and 5 by name; 7 has such a name but is no control token.
  EXPECT_EQ(Spec(TinyLlamaGguf())->end_ids, (std::vector<int32_t>{0, 1, 5, 6}));
  EXPECT_EQ(Spec(TinyLlamaGguf()
                     .Remove("tokenizer.ggml.eos_token_id")
                     .Int("tokenizer.ggml.eot_token_id", 2)
                     .Int("tokenizer.ggml.eom_token_id", 5))
                ->end_ids,
            (std::vector<int32_t>{0, 1, 2, 5}));
}

TEST(GgufTokenizerTest, OptionalKeysHaveDefaults) {
  const auto spec = Spec(TinyLlamaGguf()
                             .Remove("tokenizer.ggml.pre")
                             .Remove("tokenizer.ggml.token_type")
                             .Remove("tokenizer.ggml.merges")
                             .Remove("tokenizer.ggml.bos_token_id")
                             .Remove("tokenizer.ggml.eos_token_id")
                             .Remove("tokenizer.ggml.add_bos_token"));
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->pre_tokenizer, "");
  EXPECT_EQ(spec->types, std::vector<TokenType>(8, TokenType::kNormal));
  EXPECT_TRUE(spec->merges.empty());
  EXPECT_TRUE(spec->end_ids.empty());
  EXPECT_EQ(spec->bos_id, -1);
  EXPECT_FALSE(spec->add_bos);
}

TEST(GgufTokenizerTest, IdsOutsideTheVocabularyAreRefused) {
  for (const char* key : {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                          "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    for (const uint32_t id : {8u, 1u << 31, UINT32_MAX}) {
      EXPECT_TRUE(Fails(Spec(TinyLlamaGguf().Int(key, id)), StatusCode::kInvalidArgument,
                        {"model.gguf", key, std::to_string(id), "0 to 7"}));
    }
    GgufBuilder builder = TinyLlamaGguf();
    builder.Value(key, kGgufI32, GgufBytes().Put(int32_t{-1}));
    EXPECT_TRUE(Fails(Spec(builder), StatusCode::kInvalidArgument, {key, "is -1"}));
  }
}

TEST(GgufTokenizerTest, AVocabularyThatContradictsItselfIsRefused) {
  EXPECT_TRUE(Fails(Spec(TinyLlamaGguf().Remove("tokenizer.ggml.model")), StatusCode::kNotFound,
                    {"tokenizer.ggml.model"}));
  EXPECT_TRUE(Fails(Spec(TinyLlamaGguf().Remove("tokenizer.ggml.tokens")), StatusCode::kNotFound,
                    {"tokenizer.ggml.tokens"}));
  EXPECT_TRUE(Fails(Spec(TinyLlamaGguf().Strings("tokenizer.ggml.tokens", {})),
                    StatusCode::kInvalidArgument, {"holds 0 tokens"}));
  EXPECT_TRUE(Fails(Spec(TinyLlamaGguf().Ints("tokenizer.ggml.token_type", {1, 1})),
                    StatusCode::kInvalidArgument, {"has 2 elements", "8"}));
  for (const int32_t type : {0, 7, -1, INT32_MAX}) {
    EXPECT_TRUE(
        Fails(Spec(TinyLlamaGguf().Ints("tokenizer.ggml.token_type", {1, 1, type, 1, 1, 1, 1, 1})),
              StatusCode::kInvalidArgument,
              {"token_type of token 2 is " + std::to_string(type), "1 to 6"}));
  }
  EXPECT_TRUE(Fails(Spec(TinyLlamaGguf()
                             .Bool("tokenizer.ggml.add_bos_token", true)
                             .Remove("tokenizer.ggml.bos_token_id")),
                    StatusCode::kInvalidArgument, {"add_bos_token", "bos_token_id"}));
}

}  // namespace
}  // namespace penstock
