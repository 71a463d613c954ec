// SpmTokenizer on vocabularies small enough to follow by hand.
#include "core/tokenizer/spm_tokenizer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/tokenizer/tokenizer.h"
#include "tests/support/small_vocabulary.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using Names = std::vector<std::string>;
using Prefix = TokenizerSpec::SpacePrefix;
using Type = TokenizerSpec::TokenType;

const std::string kSpace = "\xE2\x96\x81";

void AddPiece(const std::string& name, float score, TokenizerSpec* spec,
              Type type = Type::kNormal) {
  AddToken(name, type, spec);
  spec->scores.push_back(score);
}

// 0 <unk>, 1 <s>, 2 </s>, then words by falling score, then single characters.
TokenizerSpec Vocabulary() {
  TokenizerSpec spec;
  spec.model = "llama";
  AddPiece("<unk>", 0, &spec, Type::kUnknown);
  AddPiece("<s>", 0, &spec, Type::kControl);
  AddPiece("</s>", 0, &spec, Type::kControl);
  float score = 0;
  for (const std::string& name : Names{"ll", "he", kSpace + "he", "llo", kSpace + "hello", "aa",
                                       "aaa", kSpace, "h", "e", "l", "o", "a"}) {
    AddPiece(name, score--, &spec);
  }
  spec.bos_id = 1;
  spec.add_bos = true;
  spec.end_ids = {2};
  return spec;
}

TokenizerSpec WithBytes() {
  TokenizerSpec spec = Vocabulary();
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    AddPiece(name, 0, &spec, Type::kByte);
  }
  return spec;
}

std::unique_ptr<Tokenizer> Make(TokenizerSpec spec) {
  auto tokenizer = MakeTokenizer(std::move(spec));
  EXPECT_TRUE(IsOk(tokenizer));
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

Names Tokens(const TokenizerSpec& spec, const std::vector<TextPart>& parts) {
  const auto ids = Make(spec)->EncodeParts(parts, /*add_bos=*/false);
  EXPECT_TRUE(IsOk(ids));
  Names names;
  if (!ids.ok()) return names;
  for (const int32_t id : *ids) names.push_back(spec.tokens[id]);
  return names;
}
Names Tokens(const TokenizerSpec& spec, std::string_view text, bool parse_special = false) {
  return Tokens(spec, {{text, parse_special}});
}

TEST(SpmTokenizer, MergesTheBestScoreFirstAndTheLeftmostOfEquals) {
  EXPECT_EQ(Tokens(Vocabulary(), "hello"), Names({kSpace + "hello"}));
  EXPECT_EQ(Tokens(Vocabulary(), "ahello"), Names({kSpace, "a", "he", "llo"}));
  EXPECT_EQ(Tokens(Vocabulary(), "aaaaa"), Names({kSpace, "aa", "aaa"}));
  EXPECT_EQ(Tokens(Vocabulary(), ""), Names());
}

TEST(SpmTokenizer, SpacesBecomeTheirSymbol) {
  EXPECT_EQ(Tokens(Vocabulary(), " hello"), Names({kSpace, kSpace + "hello"}));
  EXPECT_EQ(Tokens(Vocabulary(), "a hello "), Names({kSpace, "a", kSpace + "hello", kSpace}));
  EXPECT_EQ(Tokens(Vocabulary(), kSpace), Names({kSpace, kSpace}));
  TokenizerSpec spec = Vocabulary();
  spec.remove_extra_spaces = true;
  EXPECT_EQ(Tokens(spec, "  a   hello  "), Names({kSpace, "a", kSpace + "hello"}));
  EXPECT_EQ(Tokens(spec, "   "), Names());
}

TEST(SpmTokenizer, EachKindOfSpacePrefix) {
  const std::string text = "a<s>a</s> a";
  TokenizerSpec spec = Vocabulary();
  EXPECT_EQ(Tokens(spec, text, true),
            Names({kSpace, "a", "<s>", kSpace, "a", "</s>", kSpace, "a"}));
  EXPECT_EQ(Tokens(spec, " a<s>  a", true),
            Names({kSpace, kSpace, "a", "<s>", kSpace, kSpace, "a"}));
  spec.space_prefix = Prefix::kEveryText;
  EXPECT_EQ(Tokens(spec, text, true),
            Names({kSpace, "a", "<s>", kSpace, "a", "</s>", kSpace, kSpace, "a"}));
  spec.space_prefix = Prefix::kNone;
  EXPECT_EQ(Tokens(spec, text, true), Names({"a", "<s>", "a", "</s>", kSpace, "a"}));
  spec.space_prefix = Prefix::kEveryUnspacedText;
  EXPECT_EQ(Tokens(spec, text, true),
            Names({kSpace, "a", "<s>", kSpace, "a", "</s>", kSpace, "a"}));
  spec.space_prefix = Prefix::kFirstUnspacedText;
  EXPECT_EQ(Tokens(spec, text, true), Names({kSpace, "a", "<s>", "a", "</s>", kSpace, "a"}));
  EXPECT_EQ(Tokens(spec, "<s>a", true), Names({"<s>", "a"}));
}

TEST(SpmTokenizer, UnknownCharactersAreBytesOrOneUnknownToken) {
  EXPECT_EQ(Tokens(Vocabulary(), "xyahz"), Names({kSpace, "<unk>", "a", "h", "<unk>"}));
  EXPECT_EQ(Tokens(WithBytes(), "xé"), Names({kSpace, "<0x78>", "<0xC3>", "<0xA9>"}));
  TokenizerSpec none = Vocabulary();
  none.types[0] = Type::kControl;
  EXPECT_EQ(Tokens(none, "xah"), Names({kSpace, "a", "h"}));
}

TEST(SpmTokenizer, NamesOfControlAndByteTokensAreTextUnlessParsed) {
  TokenizerSpec spec = WithBytes();
  for (const std::string name : {"<s>", "</s>", "<unk>"}) {
    for (const std::string& token : Tokens(spec, name)) EXPECT_NE(token, name);
    EXPECT_EQ(Tokens(spec, name, true), Names({name}));
    EXPECT_EQ(Tokens(spec, {{name.substr(0, 2), true}, {name.substr(2), true}}).size(),
              Tokens(spec, name).size());
  }
  EXPECT_EQ(Tokens(spec, "<0x41>", true).front(), kSpace);
  const auto ids = Make(spec)->Encode("a", false);
  EXPECT_EQ(ids->front(), 1);  // BOS
}

TEST(SpmTokenizer, UserDefinedSymbolsAreNeverMerged) {
  TokenizerSpec spec = Vocabulary();
  AddPiece("ell", 0, &spec, Type::kUserDefined);
  AddPiece(kSpace + kSpace, 0, &spec, Type::kUserDefined);
  EXPECT_EQ(Tokens(spec, "hello"), Names({kSpace, "h", "ell", "o"}));
  EXPECT_EQ(Tokens(spec, " a"), Names({kSpace + kSpace, "a"}));
}

TEST(SpmTokenizer, UnusedPiecesFallBackIntoTheirHalves) {
  TokenizerSpec spec = Vocabulary();
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.tokens[i] == "llo" || spec.tokens[i] == "aaa") spec.types[i] = Type::kUnused;
  }
  EXPECT_EQ(Tokens(spec, "allo"), Names({kSpace, "a", "ll", "o"}));
  EXPECT_EQ(Tokens(spec, "aaa"), Names({kSpace, "aa", "a"}));
  EXPECT_EQ(Make(spec)->TokenBytes(6), "");
}

TEST(SpmTokenizer, MergesGoByRankWhereTheyAreGiven) {
  TokenizerSpec spec = Vocabulary();
  spec.merges = {"a a", "l l", "l o", "ll o"};
  AddPiece("lo", 0, &spec);
  EXPECT_EQ(Tokens(spec, "allo"), Names({kSpace, "a", "llo"}));
  std::swap(spec.merges[1], spec.merges[2]);
  EXPECT_EQ(Tokens(spec, "allo"), Names({kSpace, "a", "l", "lo"}));
}

TEST(SpmTokenizer, TextComesBack) {
  const auto tokenizer = Make(WithBytes());
  EXPECT_TRUE(tokenizer->adds_space_prefix());
  for (const std::string text : {"hello", " hello", "  a  ", "x\n\té\xF0\x9F\x98\x80", ""}) {
    const TextPart part{text, false};
    const auto ids = tokenizer->EncodeParts({&part, 1}, /*add_bos=*/true);
    ASSERT_TRUE(IsOk(ids));
    EXPECT_EQ(Detokenize(*tokenizer, *ids), text);
  }
  // What continues a text keeps its space.
  StreamingDetokenizer answer(*tokenizer);
  EXPECT_EQ(answer.Add(7), " hello");
}

TEST(SpmTokenizer, TextThatIsNotUtf8IsRefused) {
  EXPECT_TRUE(Fails(Make(Vocabulary())->Encode("hello \xFF", false),
                    absl::StatusCode::kInvalidArgument, {"not UTF-8", "offset 6"}));
}

// In quadratic time this would not end before the test is stopped.
TEST(SpmTokenizer, ALongWordTakesNoLongTime) {
  const std::string text(400000, 'a');
  EXPECT_EQ(Tokens(Vocabulary(), text).size(), 1u + 200000u);
}

TEST(SpmTokenizer, RefusesASpecThatContradictsItself) {
  struct Case {
    std::function<void(TokenizerSpec*)> spoil;
    std::string_view word;
  };
  const Case cases[] = {
      {[](TokenizerSpec* spec) { spec->scores.pop_back(); }, "scores"},
      {[](TokenizerSpec* spec) { spec->scores[4] = std::numeric_limits<float>::infinity(); },
       "score"},
      {[](TokenizerSpec* spec) { AddPiece("he", 0, spec); }, "is also token 4"},
      {[](TokenizerSpec* spec) { AddPiece("", 0, spec); }, "empty name"},
      {[](TokenizerSpec* spec) { AddPiece("?", 0, spec, Type::kUnknown); }, "both the unknown"},
      {[](TokenizerSpec* spec) { AddPiece("<0x4g>", 0, spec, Type::kByte); }, "<0x0A>"},
      {[](TokenizerSpec* spec) {
         AddPiece("<0x41>", 0, spec, Type::kByte);
         AddPiece("<0x41>", 0, spec, Type::kByte);
       },
       "is also token"},
      {[](TokenizerSpec* spec) { AddPiece("\xFF", 0, spec, Type::kControl); }, "no UTF-8"},
      {[](TokenizerSpec* spec) { spec->merges = {"ab"}; }, "a space between"},
      {[](TokenizerSpec* spec) { spec->merges = {"h x"}; }, "\"x\" is not a normal token"},
      {[](TokenizerSpec* spec) {
         spec->merges = {"h e", "h e"};
       },
       "is there twice"},
      {[](TokenizerSpec* spec) { spec->end_ids = {99}; }, "end token"},
  };
  for (const Case& each : cases) {
    TokenizerSpec spec = Vocabulary();
    each.spoil(&spec);
    EXPECT_TRUE(Fails(MakeTokenizer(spec), absl::StatusCode::kInvalidArgument, {each.word}));
  }
}

}  // namespace
}  // namespace penstock
