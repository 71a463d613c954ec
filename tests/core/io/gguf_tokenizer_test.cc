// What a GGUF file does not say of its tokenizer and its name stands for; vocabularies with scores;
// rows of the embedding table that are no token. The plain keys are in gguf_config_test.cc.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/io/gguf.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using absl::StatusCode;
using Prefix = TokenizerSpec::SpacePrefix;
using TokenType = TokenizerSpec::TokenType;

absl::StatusOr<TokenizerSpec> Spec(const GgufBuilder& builder, int64_t vocab_size = 0) {
  PENSTOCK_ASSIGN_OR_RETURN(const auto file, ParseGguf(builder.Build()));
  return ReadGgufTokenizer(*file, vocab_size);
}

GgufBuilder WithScores() {
  GgufBuilder builder = TinyLlamaGguf();
  builder.String("tokenizer.ggml.model", "llama");
  builder.Remove("tokenizer.ggml.add_bos_token");
  GgufBytes scores;
  scores.Put<uint32_t>(kGgufF32).Put<uint64_t>(8);
  for (int i = 0; i < 8; ++i) scores.Put(-0.5F * static_cast<float>(i));
  builder.Value("tokenizer.ggml.scores", kGgufArray, scores);
  return builder;
}

TEST(GgufTokenizer, SentencepiecesScores) {
  const auto spec = Spec(WithScores());
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->model, "llama");
  EXPECT_EQ(spec->scores[3], -1.5F);
  EXPECT_TRUE(spec->merges.empty());  // the file has one, and scores
  EXPECT_TRUE(spec->add_bos);
  EXPECT_EQ(spec->space_prefix, Prefix::kSentencePiece);
  EXPECT_FALSE(spec->remove_extra_spaces);
  EXPECT_TRUE(IsOk(MakeTokenizer(*spec)));

  GgufBuilder other = WithScores();
  other.Bool("tokenizer.ggml.add_space_prefix", false);
  other.Bool("tokenizer.ggml.remove_extra_whitespaces", true);
  other.Bool("tokenizer.ggml.add_bos_token", false);
  EXPECT_EQ(Spec(other)->space_prefix, Prefix::kNone);
  EXPECT_TRUE(Spec(other)->remove_extra_spaces);
  EXPECT_FALSE(Spec(other)->add_bos);
}

TEST(GgufTokenizer, ScoresThatAreMissingOrWrongAreRefused) {
  EXPECT_TRUE(Fails(Spec(WithScores().Remove("tokenizer.ggml.scores")), StatusCode::kNotFound,
                    {"model.gguf", "tokenizer.ggml.scores"}));
  EXPECT_TRUE(Fails(Spec(WithScores().Ints("tokenizer.ggml.scores", {1})),
                    StatusCode::kInvalidArgument, {"tokenizer.ggml.scores", "an array of f32"}));
  GgufBytes two;
  two.Put<uint32_t>(kGgufF32).Put<uint64_t>(2).Put(0.0F).Put(1.0F);
  EXPECT_TRUE(Fails(Spec(WithScores().Value("tokenizer.ggml.scores", kGgufArray, two)),
                    StatusCode::kInvalidArgument, {"has 2 elements; 8 are expected"}));
  EXPECT_TRUE(Fails(Spec(WithScores().String("tokenizer.ggml.precompiled_charsmap", "x")),
                    StatusCode::kUnimplemented, {"precompiled_charsmap"}));
}

TEST(GgufTokenizer, NamesStandForWhatTheFileDoesNotSay) {
  const auto with = [](std::string_view pre) {
    GgufBuilder builder = TinyLlamaGguf();
    builder.String("tokenizer.ggml.pre", pre).Remove("tokenizer.ggml.add_bos_token");
    return Spec(builder);
  };
  for (const std::string_view name : {"llama-bpe", "llama3", "llama-v3"}) {
    const auto llama3 = with(name);
    ASSERT_TRUE(IsOk(llama3));
    EXPECT_TRUE(llama3->ignore_merges);
    EXPECT_TRUE(llama3->add_bos);
    EXPECT_FALSE(llama3->normalize_nfc);
  }
  EXPECT_TRUE(with("qwen2")->normalize_nfc);
  EXPECT_FALSE(with("qwen2")->add_bos);
  EXPECT_FALSE(with("smollm")->ignore_merges);
}

TEST(GgufTokenizer, UnusedTokensFillTheEmbeddingTable) {
  const auto spec = Spec(TinyLlamaGguf(), 11);
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->tokens.size(), 11u);
  EXPECT_EQ(spec->types[10], TokenType::kUnused);
  const auto scored = Spec(WithScores(), 11);
  ASSERT_TRUE(IsOk(scored));
  EXPECT_EQ(scored->scores.size(), 11u);
  for (const TokenizerSpec& each : {*spec, *scored}) {
    const auto tokenizer = MakeTokenizer(each);
    ASSERT_TRUE(IsOk(tokenizer));
    EXPECT_EQ((*tokenizer)->vocab_size(), 11);
    EXPECT_EQ((*tokenizer)->TokenBytes(10), "");
  }
  EXPECT_TRUE(Fails(Spec(TinyLlamaGguf(), 7), StatusCode::kInvalidArgument,
                    {"model.gguf holds 8 tokens; 1 to 7", "embedding table"}));
}

// Files of Qwen2 call them user-defined, and a text could have named them.
TEST(GgufTokenizer, FillersAreUnusedWhateverTheirType) {
  const auto spec = Spec(TinyLlamaGguf().Strings(
      "tokenizer.ggml.tokens",
      {"<|endoftext|>", "<|im_end|>", "a", "b", "ab", "<reponame>", "[PAD6]", "[PAD8]"}));
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->types[6], TokenType::kUnused);
  EXPECT_EQ(spec->types[7], TokenType::kNormal);  // not its own number
}

}  // namespace
}  // namespace penstock
