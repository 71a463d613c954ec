// tokenizer.json: what is read of it, and what is refused with which words. Real files of each kind
// are in tests/golden.
#include "core/io/tokenizer_json.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/status_matchers.h"
#include "tests/support/tokenizer_json_text.h"

namespace penstock {
namespace {

using absl::StatusCode;
using Ids = std::vector<int32_t>;
using Prefix = TokenizerSpec::SpacePrefix;
using Type = TokenizerSpec::TokenType;

absl::StatusOr<TokenizerSpec> Parse(std::string_view text, int64_t vocab_size = 0) {
  const auto document = JsonDocument::Parse("tokenizer.json", text);
  EXPECT_TRUE(IsOk(document)) << text;
  if (!document.ok()) return document.status();
  return ParseTokenizerJson(**document, vocab_size);
}

TEST(TokenizerJson, ReadsByteLevelBpe) {
  const auto spec = Parse(kByteLevelTokenizerJson);
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->model, "gpt2");
  EXPECT_EQ(spec->pre_tokenizer, "llama-bpe");
  EXPECT_EQ(spec->tokens,
            std::vector<std::string>({"h", "e", "y", "he", "hey", "<|begin|>", "[TOOL]"}));
  EXPECT_EQ(spec->types[4], Type::kNormal);
  EXPECT_EQ(spec->types[5], Type::kControl);
  EXPECT_EQ(spec->types[6], Type::kUserDefined);
  EXPECT_EQ(spec->merges, std::vector<std::string>({"h e", "he y"}));
  EXPECT_EQ(spec->bos_id, 5);
  EXPECT_TRUE(spec->add_bos);
  EXPECT_TRUE(spec->ignore_merges);
  EXPECT_FALSE(spec->normalize_nfc);
  const auto tokenizer = MakeTokenizer(*spec);
  ASSERT_TRUE(IsOk(tokenizer));
  EXPECT_EQ(*(*tokenizer)->Encode("hey[TOOL]he<|begin|>", true), Ids({5, 4, 6, 3, 5}));
}

TEST(TokenizerJson, ReadsBpeWithSentencepiecesSpaces) {
  const auto spec = Parse(kSpacedTokenizerJson);
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->model, "llama");
  EXPECT_EQ(spec->types[0], Type::kUnknown);
  EXPECT_EQ(spec->types[2], Type::kByte);
  EXPECT_EQ(spec->space_prefix, Prefix::kEveryText);
  EXPECT_EQ(spec->bos_id, 1);
  const auto tokenizer = MakeTokenizer(*spec);
  ASSERT_TRUE(IsOk(tokenizer));
  EXPECT_EQ(*(*tokenizer)->Encode("hi Azz hi", true), Ids({1, 7, 3, 2, 0, 7}));
}

TEST(TokenizerJson, RecognisesEveryPreTokenizer) {
  const std::string_view gpt2 = R"({"type": "ByteLevel", "add_prefix_space": false})";
  const std::string text(kByteLevelTokenizerJson);
  const size_t begin = text.find("\"pre_tokenizer\": ") + 17;
  const size_t end = text.find(",\n\"post_processor\"");
  const auto with = [&](std::string_view steps) {
    return std::string(text).replace(begin, end - begin, steps);
  };
  const auto name_of = [&](std::string_view steps) {
    const auto spec = Parse(with(steps));
    EXPECT_TRUE(IsOk(spec));
    return spec.ok() ? spec->pre_tokenizer : "";
  };
  EXPECT_EQ(name_of(gpt2), "gpt-2");
  EXPECT_EQ(name_of(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Digits", "individual_digits": true},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]})"),
            "smollm");
  EXPECT_EQ(Parse(Replaced(text, "{1,3}", ""))->pre_tokenizer, "qwen2");

  const std::pair<std::string, std::string_view> refused[] = {
      {with("null"), "pre_tokenizer is not there"},
      {with(R"({"type": "Whitespace"})"), "pre_tokenizer consists of 'Whitespace'"},
      {with(R"({"type": "ByteLevel"})"), "add_prefix_space"},
      {with(R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})"),
       "consists of 'ByteLevel' without"},
      {with(R"({"type": "Sequence", "pretokenizers": [{"type": "Digits"},
             {"type": "ByteLevel", "add_prefix_space": false}]})"),
       "individual_digits"},
      {Replaced(text, "{1,3}", "{1,4}"), "pre_tokenizer.pretokenizers[0] splits by '(?i:"},
      {Replaced(text, "Isolated", "Removed"), "pieces of their own"},
      {Replaced(text, "\"invert\": false", "\"invert\": true"), "pieces of their own"},
      {Replaced(text, "\"normalizer\": null", R"("normalizer": {"type": "Lowercase"})"),
       "normalizer is of type 'Lowercase'"},
      {Replaced(text, "\"normalizer\": null",
                R"("normalizer": {"type": "Prepend", "prepend": "\u2581"})"),
       "sentencepiece's spaces"},
  };
  for (const auto& [changed, word] : refused) {
    EXPECT_TRUE(Fails(Parse(changed), StatusCode::kUnimplemented, {"tokenizer.json: ", word}));
  }
}

TEST(TokenizerJson, RecognisesEveryKindOfSpaces) {
  const std::string_view metaspace =
      R"({"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": false})";
  const std::string text(kSpacedTokenizerJson);
  const size_t begin = text.find("\"normalizer\": ");
  const size_t end = text.find(",\n\"post_processor\"");
  const auto with = [&](std::string_view steps) {
    return std::string(text).replace(begin, end - begin,
                                     "\"pre_tokenizer\": " + std::string(steps));
  };
  EXPECT_EQ(Parse(with(metaspace))->space_prefix, Prefix::kFirstUnspacedText);
  EXPECT_EQ(Parse(Replaced(with(metaspace), "first", "always"))->space_prefix,
            Prefix::kEveryUnspacedText);
  EXPECT_EQ(Parse(Replaced(with(metaspace), "first", "never"))->space_prefix, Prefix::kNone);
  EXPECT_EQ(Parse(Replaced(text, R"({"type": "Prepend", "prepend": "\u2581"},)", ""))->space_prefix,
            Prefix::kNone);

  const std::pair<std::string, std::string_view> refused[] = {
      {Replaced(with(metaspace), "first", "last"), "prepend_scheme 'last'"},
      {Replaced(with(metaspace), ", \"split\": false", ""), "splits texts at spaces"},
      {Replaced(with(metaspace), "2581", "2582"), "replaces spaces by"},
      {with("null"), "is not there"},
      {Replaced(text, "\"prepend\": \"\\u2581\"", "\"prepend\": \"x\""), "prepends 'x'"},
      {Replaced(text, "\"String\": \" \"", "\"Regex\": \" \""), "does not replace the space"},
      {Replaced(text, "\"normalizers\": [", "\"normalizers\": [{\"type\": \"NFC\"},"), "is NFC"},
      {Replaced(text, "\"normalized\": false", "\"normalized\": true"), "normalized text"},
  };
  for (const auto& [changed, word] : refused) {
    EXPECT_TRUE(Fails(Parse(changed), StatusCode::kUnimplemented, {"tokenizer.json: ", word}));
  }
}

TEST(TokenizerJson, WhatIsNotSupportedIsNamed) {
  const std::string_view changes[][3] = {
      {"\"type\": \"BPE\"", "\"type\": \"Unigram\"", "model.type is 'Unigram'"},
      {"\"dropout\": null", "\"dropout\": 0.1", "model.dropout"},
      {"\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"</w>\"", "end_of_word_suffix"},
      {"\"byte_fallback\": false", "\"byte_fallback\": true", "model.byte_fallback"},
      {"\"unk_token\": null", "\"unk_token\": \"h\"", "model.unk_token is given, and byte 0"},
      {"\"lstrip\": false", "\"lstrip\": true", "added_tokens[0] has lstrip set"},
      {"\"rstrip\": false", "\"rstrip\": true", "added_tokens[0] has rstrip set"},
      {"\"single_word\": false", "\"single_word\": true", "added_tokens[0] has single_word set"},
      {"\"TemplateProcessing\"", "\"RobertaProcessing\"", "'RobertaProcessing'"},
      {"{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}",
       "{\"Sequence\": {}}, {\"SpecialToken\": {\"id\": \"h\"}}", "puts tokens after a text"},
      {"{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}",
       "{\"SpecialToken\": {\"id\": \"h\"}}, {\"Sequence\": {}}", "several tokens"},
  };
  for (const auto& [from, to, word] : changes) {
    EXPECT_TRUE(Fails(Parse(Replaced(kByteLevelTokenizerJson, from, to)),
                      StatusCode::kUnimplemented, {"tokenizer.json: ", word}));
  }
}

TEST(TokenizerJson, WhatContradictsItselfIsRefused) {
  const std::string_view changes[][3] = {
      {"\"e\": 1", "\"e\": 0", "model.vocab.e is 0, which is also the id of 'h'"},
      {"\"e\": 1", "\"e\": -1", "model.vocab.e is -1; an id from 0 to 6"},
      {"\"e\": 1", "\"e\": 7", "model.vocab.e is 7; an id from 0 to 6"},
      {"\"e\": 1", "\"e\": \"1\"", "model.vocab.e is '1'; an integer"},
      {"\"e\": 1", "\"\": 1", "an empty name"},
      {"\"e\": 1,", "", "tokenizer.json: "},
      {"\"id\": 5", "\"id\": 3", "added_tokens[0] has the id 3, but that is the id of 'he'"},
      {"\"content\": \"[TOOL]\"", "\"content\": \"hey\"",
       "added_tokens[1] has the id 6, but 'hey'"},
      {"\"merges\"", "\"mergers\"", "there is no 'merges'"},
      {"[\"h\", \"e\"]", "[\"h\"]", "model.merges[0] is an array of 1; a pair"},
      {"[\"h\", \"e\"]", "\"he\"", "model.merges[0] is 'he'; two tokens"},
      {"[\"h\", \"e\"]", "[\"h e\", \"y\"]", "two tokens without spaces"},
      {"[\"h\", \"e\"]", "7", "model.merges[0] is 7"},
      {"{\"id\": \"<|begin|>\", \"type_id\"", "{\"id\": \"<|start|>\", \"type_id\"", "<|start|>"},
      {"\"unk_token\": null", "\"unk_token\": \"?\"", "model.unk_token is '?', which is no token"},
      {"\"special\": true", "\"special\": 1", "true or false"},
  };
  for (const auto& [from, to, word] : changes) {
    EXPECT_TRUE(Fails(Parse(Replaced(kByteLevelTokenizerJson, from, to)),
                      StatusCode::kInvalidArgument, {"tokenizer.json: ", word}));
  }
  EXPECT_TRUE(Fails(Parse("[]"), StatusCode::kInvalidArgument, {"an object is expected"}));
}

TEST(TokenizerJson, GapsAreUnusedTokensWhereTheTableHasRowsForThem) {
  const std::string text = Replaced(kByteLevelTokenizerJson, "\"id\": 6", "\"id\": 8");
  EXPECT_TRUE(Fails(Parse(text), StatusCode::kInvalidArgument, {"an id from 0 to 6"}));
  const auto spec = Parse(text, 12);
  ASSERT_TRUE(IsOk(spec));
  ASSERT_EQ(spec->tokens.size(), 12u);
  for (const int id : {6, 7, 9, 11}) EXPECT_EQ(spec->types[id], Type::kUnused);
  EXPECT_EQ(spec->types[8], Type::kUserDefined);
  const auto tokenizer = MakeTokenizer(*spec);
  ASSERT_TRUE(IsOk(tokenizer));
  EXPECT_EQ((*tokenizer)->vocab_size(), 12);
  EXPECT_EQ((*tokenizer)->TokenBytes(11), "");
  EXPECT_TRUE(Fails(Parse(text, 8), StatusCode::kInvalidArgument, {"is 8; an id from 0 to 7"}));
}

TEST(TokenizerJson, NoMergeLeadsToAControlToken) {
  const std::string text =
      Replaced(kByteLevelTokenizerJson, "\"content\": \"<|begin|>\"", "\"content\": \"yy\"");
  const auto spec = Parse(Replaced(Replaced(text, "{\"id\": \"<|begin|>\"", "{\"id\": \"yy\""),
                                   "[\"h\", \"e\"]", "[\"h\", \"e\"], [\"y\", \"y\"]"));
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->merges, std::vector<std::string>({"h e", "he y"}));
}

}  // namespace
}  // namespace penstock
