// Sentencepiece models made by hand: what is read of them, and every way to be refused.
#include "core/io/sentencepiece_model.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/io/protobuf_reader.h"
#include "tests/support/sentencepiece_builder.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using absl::StatusCode;
using Builder = SentencePieceBuilder;
using Type = TokenizerSpec::TokenType;

absl::StatusOr<TokenizerSpec> Parse(const Builder& model, int64_t vocab_size = 0) {
  return ParseSentencePieceModel("tokenizer.model", model.Build(), vocab_size);
}

TEST(SentencePieceModel, ReadsPiecesAndSettings) {
  Builder model = TinySentencePiece();
  model.Piece("<tool>", 0, Builder::kUserDefined).Piece("lll", -2.5, Builder::kUnused);
  const auto spec = Parse(model);
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->model, "llama");
  ASSERT_EQ(spec->tokens.size(), 15u);
  EXPECT_EQ(spec->tokens[3], "ll");
  EXPECT_EQ(spec->scores[4], -1);
  EXPECT_EQ(spec->scores[14], -2.5);
  EXPECT_EQ(spec->types[0], Type::kUnknown);
  EXPECT_EQ(spec->types[1], Type::kControl);
  EXPECT_EQ(spec->types[3], Type::kNormal);
  EXPECT_EQ(spec->types[13], Type::kUserDefined);
  EXPECT_EQ(spec->types[14], Type::kUnused);
  EXPECT_EQ(spec->bos_id, 1);
  EXPECT_TRUE(spec->add_bos);
  EXPECT_EQ(spec->end_ids, std::vector<int32_t>({2}));
  EXPECT_EQ(spec->space_prefix, TokenizerSpec::SpacePrefix::kSentencePiece);
  EXPECT_FALSE(spec->remove_extra_spaces);
}

TEST(SentencePieceModel, SettingsThatAreLeftOutHaveTheDefaultsOfTheFormat) {
  Builder model = TinySentencePiece();
  model.normalizer.bytes.clear();
  const auto spec = Parse(model);
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->space_prefix, TokenizerSpec::SpacePrefix::kSentencePiece);
  EXPECT_TRUE(spec->remove_extra_spaces);
  model.trainer.bytes.clear();
  EXPECT_TRUE(Fails(Parse(model), StatusCode::kUnimplemented, {"model_type is 1 (unigram)"}));
}

TEST(SentencePieceModel, FirstAndLastTokenMayHaveOtherNames) {
  Builder model = TinySentencePiece();
  model.Piece("<bos>", 0, Builder::kControl).Piece("<eos>", 0, Builder::kControl);
  model.trainer.Bytes(46, "<bos>").Bytes(47, "<eos>");
  const auto spec = Parse(model);
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->bos_id, 13);
  EXPECT_EQ(spec->end_ids, std::vector<int32_t>({2, 14}));  // </s> by its name
}

TEST(SentencePieceModel, UnusedTokensFillTheEmbeddingTable) {
  const auto spec = Parse(TinySentencePiece(), 16);
  ASSERT_TRUE(IsOk(spec));
  ASSERT_EQ(spec->tokens.size(), 16u);
  EXPECT_EQ(spec->types[15], Type::kUnused);
  EXPECT_EQ(spec->scores.size(), 16u);
  const auto tokenizer = MakeTokenizer(*spec);
  ASSERT_TRUE(IsOk(tokenizer));
  EXPECT_EQ((*tokenizer)->vocab_size(), 16);
  EXPECT_EQ((*tokenizer)->TokenBytes(15), "");
  EXPECT_TRUE(Fails(Parse(TinySentencePiece(), 12), StatusCode::kInvalidArgument,
                    {"tokenizer.model holds 13 tokens", "1 to 12", "embedding"}));
}

TEST(SentencePieceModel, WhatIsNotSupportedIsNamed) {
  struct Case {
    std::function<void(Builder*)> change;
    std::string_view word;
  };
  const Case cases[] = {
      {[](Builder* model) { model->trainer.Varint(3, 1); }, "model_type is 1 (unigram)"},
      {[](Builder* model) { model->trainer.Varint(3, 3); }, "model_type is 3 (word)"},
      {[](Builder* model) { model->trainer.Varint(3, 77); }, "model_type is 77;"},
      {[](Builder* model) { model->trainer.Varint(24, 1); }, "treat_whitespace_as_suffix"},
      {[](Builder* model) { model->normalizer.Bytes(2, "map"); }, "precompiled_charsmap"},
      {[](Builder* model) { model->normalizer.Varint(5, 0); }, "escape_whitespaces"},
  };
  for (const Case& each : cases) {
    Builder model = TinySentencePiece();
    each.change(&model);
    EXPECT_TRUE(Fails(Parse(model), StatusCode::kUnimplemented, {"tokenizer.model", each.word}));
  }
}

TEST(SentencePieceModel, WhatContradictsItselfIsRefused) {
  struct Case {
    std::function<void(Builder*)> change;
    std::string_view word;
  };
  const Case cases[] = {
      {[](Builder* model) { model->pieces.bytes.clear(); }, "0 pieces of type unknown"},
      {[](Builder* model) { model->Piece("?", 0, Builder::kUnknown); }, "2 pieces of type unknown"},
      {[](Builder* model) { model->Piece("", 0); }, "piece 13 has no text"},
      {[](Builder* model) { model->Piece("x", 0, 0); }, "piece 13 has the type 0"},
      {[](Builder* model) { model->Piece("x", 0, 7); }, "piece 13 has the type 7"},
      {[](Builder* model) { model->trainer.Varint(35, 1); }, "0 byte pieces; 256 are expected"},
      {[](Builder* model) { model->Piece("<0x00>", 0, Builder::kByte); }, "1 byte pieces; 0"},
      {[](Builder* model) { model->pieces.Varint(1, 5); }, "piece 13 has the wire type 0; 2"},
      {[](Builder* model) {
         model->pieces.Bytes(1,
                             "\x0A\x05"
                             "ab");
       },
       "at byte 0 of piece 13"},
      {[](Builder* model) {
         model->pieces.Bytes(1,
                             "\x15"
                             "ab");
       },
       "at byte 0 of piece 13"},
      {[](Builder* model) { model->pieces.Bytes(1, "\x0B"); }, "at byte 0 of piece 13"},
      {[](Builder* model) { model->trainer.Bytes(3, "2"); }, "model_type has the wire type 2"},
      {[](Builder* model) { model->trainer.bytes += '\xFF'; }, "of trainer_spec"},
      {[](Builder* model) { model->normalizer.Float(3, 1); }, "add_dummy_prefix has the wire"},
  };
  for (const Case& each : cases) {
    Builder model = TinySentencePiece();
    each.change(&model);
    EXPECT_TRUE(Fails(Parse(model), StatusCode::kInvalidArgument, {"tokenizer.model", each.word}));
  }
  EXPECT_TRUE(Fails(ReadSentencePieceModel("/nonexistent/tokenizer.model", 0),
                    StatusCode::kNotFound, {"/nonexistent/tokenizer.model"}));
}

TEST(SentencePieceModel, ScoresThatAreNoNumbersAreRefused) {
  Builder model = TinySentencePiece();
  model.Piece("x", std::numeric_limits<float>::quiet_NaN());
  const auto spec = Parse(model);
  ASSERT_TRUE(IsOk(spec));
  EXPECT_TRUE(
      Fails(MakeTokenizer(*spec), StatusCode::kInvalidArgument, {"token 13", "\"x\"", "score"}));
}

TEST(SentencePieceModel, EveryPrefixIsReadOrRefused) {
  const std::string whole = TinySentencePiece().Build();
  int read = 0;
  for (size_t size = 0; size <= whole.size(); ++size) {
    const auto spec = ParseSentencePieceModel("tokenizer.model", whole.substr(0, size), 0);
    if (spec.ok()) ++read;
  }
  EXPECT_EQ(read, 2);  // the normalizer is optional
}

TEST(ProtobufReader, ReadsEveryWireType) {
  ProtobufBytes message;
  message.Varint(1, UINT64_MAX).Float(2, 1.5F).Bytes(3, "abc");
  message.bytes += std::string("\x21\x01\0\0\0\0\0\0\x80", 9);  // field 4, 64 bits
  ProtobufReader reader(message.bytes);
  EXPECT_EQ(reader.Next()->value, UINT64_MAX);
  EXPECT_EQ(reader.Next()->value, 0x3FC00000u);
  EXPECT_EQ(reader.Next()->bytes, "abc");
  const auto last = reader.Next();
  EXPECT_EQ(last->number, 4u);
  EXPECT_EQ(last->value, 0x8000000000000001u);
  EXPECT_FALSE(reader.Next());
  EXPECT_TRUE(reader.ok());
}

TEST(ProtobufReader, StopsAtWhatIsNoField) {
  const std::string broken[] = {
      std::string(1, '\0'),                            // field 0
      "\x08",                                          // no number
      "\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",  // a number without end
      "\x0A\x02z",                                     // longer than the message
      "\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01",  // far longer
      "\x0B",                                          // a group
      "\x0D\x01\x02\x03",                              // 32 bits cut short
      "\xF8\xFF\xFF\xFF\xFF\x01\x01",                  // a field number above 2^29 - 1
  };
  for (const std::string& message : broken) {
    ProtobufReader reader(message);
    EXPECT_FALSE(reader.Next());
    EXPECT_FALSE(reader.ok());
    EXPECT_EQ(reader.offset(), 0);
    EXPECT_FALSE(reader.Next());
  }
}

}  // namespace
}  // namespace penstock
