#include "core/tokenizer/bpe_tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/utf8.h"
#include "tests/support/small_vocabulary.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using Type = TokenizerSpec::TokenType;
using Names = std::vector<std::string>;
using Ids = std::vector<int32_t>;

std::unique_ptr<Tokenizer> Make(const TokenizerSpec& spec) {
  auto made = MakeTokenizer(spec);
  EXPECT_TRUE(IsOk(made));
  return std::move(made).value();
}

Ids Encode(const Tokenizer& tokenizer, std::string_view text, bool parse_special = false) {
  const auto ids = tokenizer.Encode(text, parse_special);
  EXPECT_TRUE(IsOk(ids));
  return *ids;
}

// Tokens by their names in the vocabulary, in which a space is Ġ.
Names Tokens(const TokenizerSpec& spec, std::string_view text, bool parse_special = false) {
  Names names;
  for (const int32_t id : Encode(*Make(spec), text, parse_special)) {
    names.push_back(spec.tokens[id]);
  }
  return names;
}

// The definition of BPE: again and again the best pair, the leftmost of equals.
Names MergeByDefinition(const TokenizerSpec& spec, Names word) {
  while (true) {
    size_t best = spec.merges.size();
    size_t at = 0;
    for (size_t i = 0; i + 1 < word.size(); ++i) {
      const auto found =
          std::find(spec.merges.begin(), spec.merges.end(), word[i] + " " + word[i + 1]);
      const auto rank = static_cast<size_t>(found - spec.merges.begin());
      if (rank < best) {
        best = rank;
        at = i;
      }
    }
    if (best == spec.merges.size()) return word;
    word[at] += word[at + 1];
    word.erase(word.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

TEST(BpeTokenizer, MergesByRankThenFromTheLeft) {
  const TokenizerSpec spec = SmallVocabulary();
  EXPECT_EQ(Tokens(spec, ""), Names());
  EXPECT_EQ(Tokens(spec, "hello hello"), Names({"hello", "Ġhello"}));
  EXPECT_EQ(Tokens(spec, "helhell"), Names({"he", "l", "hell"}));
  EXPECT_EQ(Tokens(spec, "abc"), Names({"a", "bc"}));  // "b c" is the better rank
  EXPECT_EQ(Tokens(spec, "aaa"), Names({"aa", "a"}));
  EXPECT_EQ(Tokens(spec, "aaaaaaa"), Names({"aaaa", "aa", "a"}));
  EXPECT_EQ(Tokens(spec, "éa漢"), Names({"Ã©", "a", "æ", "¼", "¢"}));
}

TEST(BpeTokenizer, EqualsTheDefinitionOnRandomVocabularies) {
  std::mt19937 random(1);
  const Names letters = {"a", "b", "c"};
  for (int round = 0; round < 60; ++round) {
    TokenizerSpec spec;
    spec.model = "gpt2";
    spec.pre_tokenizer = "gpt-2";
    for (const std::string& letter : letters) AddToken(letter, Type::kNormal, &spec);
    for (int i = 0; i < 30; ++i) {
      const std::string left = spec.tokens[random() % spec.tokens.size()];
      const std::string right = spec.tokens[random() % spec.tokens.size()];
      if (std::find(spec.tokens.begin(), spec.tokens.end(), left + right) == spec.tokens.end()) {
        AddMerge(left, right, &spec);
      } else if (const std::string merge = left + " " + right;
                 std::find(spec.merges.begin(), spec.merges.end(), merge) == spec.merges.end()) {
        spec.merges.push_back(merge);  // another way to a token that is there
      }
    }
    std::shuffle(spec.merges.begin(), spec.merges.end(), random);
    for (int i = 0; i < 20; ++i) {
      Names word;
      std::string text;
      for (size_t size = random() % 40; word.size() < size;) {
        word.push_back(letters[random() % letters.size()]);
        text += word.back();
      }
      ASSERT_EQ(Tokens(spec, text), MergeByDefinition(spec, word)) << text;
    }
  }
}

TEST(BpeTokenizer, BytesWithoutATokenAreDroppedBeforeTheMerging) {
  const TokenizerSpec spec = SmallVocabulary();
  EXPECT_EQ(Tokens(spec, "\x04"), Names());
  EXPECT_EQ(Tokens(spec, "!\x04?"), Names({"!", "?"}));
  EXPECT_EQ(Tokens(spec, "\U00050000"), Names({"Ĳ", "Ģ", "Ģ"}));  // F1 90 80 80 without F1

  // The neighbours of a dropped byte may merge.
  TokenizerSpec merging = spec;
  AddMerge("!", "?", &merging);
  EXPECT_EQ(Tokens(merging, "!\x04?"), Names({"!?"}));
}

TEST(BpeTokenizer, AWordThatIsATokenIsThatTokenWithIgnoreMerges) {
  TokenizerSpec spec = SmallVocabulary();
  AddToken("abc", Type::kNormal, &spec);  // no merge makes it
  EXPECT_EQ(Tokens(spec, "abc"), Names({"a", "bc"}));
  spec.ignore_merges = true;
  EXPECT_EQ(Tokens(spec, "abc"), Names({"abc"}));
  EXPECT_EQ(Tokens(spec, "abca"), Names({"a", "bc", "a"}));
  EXPECT_EQ(Tokens(spec, "<tool>abc"), Names({"<tool>", "abc"}));
}

TEST(BpeTokenizer, TextIsNormalizedAroundNamesOfTokens) {
  TokenizerSpec spec = SmallVocabulary();
  EXPECT_EQ(Tokens(spec, "e\xCC\x81"), Names({"e", "Ì", "ģ"}));
  spec.normalize_nfc = true;
  EXPECT_EQ(Tokens(spec, "e\xCC\x81"), Names({"Ã©"}));
  EXPECT_EQ(Tokens(spec, "<tool>\xCC\x81", true), Names({"<tool>", "Ì", "ģ"}));
  EXPECT_EQ(Tokens(spec, "e<|end|>\xCC\x81", true), Names({"e", "<|end|>", "Ì", "ģ"}));
}

// Quadratic time would be 10^12 steps.
TEST(BpeTokenizer, OneWordOfAMillionLetters) {
  const TokenizerSpec spec = SmallVocabulary();
  const auto tokenizer = Make(spec);
  const Ids ids = Encode(*tokenizer, std::string(1000000, 'a'));
  EXPECT_EQ(ids.size(), 250000u);
  EXPECT_TRUE(
      std::all_of(ids.begin(), ids.end(), [&](int32_t id) { return spec.tokens[id] == "aaaa"; }));

  std::string text;
  for (int i = 0; i < 200000; ++i) text += "hello";
  EXPECT_EQ(Encode(*tokenizer, text).size(), 200000u);
}

TEST(BpeTokenizer, SpecialTokensOnlyWhenAsked) {
  const TokenizerSpec spec = SmallVocabulary();
  EXPECT_EQ(Tokens(spec, "hello<|end|> hello", true), Names({"hello", "<|end|>", "Ġhello"}));
  EXPECT_EQ(Tokens(spec, "hello<|end|>", false), Names({"hello", "<|", "e", "n", "d", "|", ">"}));
  EXPECT_EQ(Tokens(spec, "<unk>", true), Names({"<unk>"}));
  EXPECT_EQ(Tokens(spec, "<unk>", false), Names({"<", "u", "n", "k", ">"}));
  // User-defined tokens always, unused ones never.
  EXPECT_EQ(Tokens(spec, "a<tool>a", true), Names({"a", "<tool>", "a"}));
  EXPECT_EQ(Tokens(spec, "a<tool>a", false), Names({"a", "<tool>", "a"}));
  EXPECT_EQ(Tokens(spec, "[PAD]", true), Names({"[", "P", "A", "D", "]"}));
}

TEST(BpeTokenizer, TheLongestNameWinsAtEachPlace) {
  const TokenizerSpec spec = SmallVocabulary();
  EXPECT_EQ(Tokens(spec, "<|end|><|end|><|end|>", true), Names({"<|end|><|end|>", "<|end|>"}));
  EXPECT_EQ(Tokens(spec, "<|end|><|end", true), Names({"<|end|>", "<|", "e", "n", "d"}));
  EXPECT_EQ(Tokens(spec, "<<tool>", true), Names({"<", "<tool>"}));

  // A shorter name that begins earlier wins over a longer one.
  TokenizerSpec overlapping = spec;
  AddToken("xy", Type::kControl, &overlapping);
  AddToken("yzzzz", Type::kControl, &overlapping);
  EXPECT_EQ(Tokens(overlapping, "xyzzzz", true), Names({"xy", "z", "z", "z", "z"}));
  EXPECT_EQ(Tokens(overlapping, "yzzzz", true), Names({"yzzzz"}));

  // A control token's name must not hide a user-defined one inside it.
  AddToken("<tool>s", Type::kControl, &overlapping);
  EXPECT_EQ(Tokens(overlapping, "<tool>s", true), Names({"<tool>s"}));
  EXPECT_EQ(Tokens(overlapping, "<tool>s", false), Names({"<tool>", "s"}));
}

TEST(BpeTokenizer, TextBeginsWithBosWhereTheModelWantsIt) {
  TokenizerSpec spec = SmallVocabulary();
  spec.bos_id = 0;
  EXPECT_EQ(Tokens(spec, "a"), Names({"a"}));
  spec.add_bos = true;
  EXPECT_EQ(Tokens(spec, "a"), Names({"<|end|>", "a"}));
  EXPECT_EQ(Tokens(spec, "a", true), Names({"<|end|>", "a"}));
  EXPECT_EQ(Tokens(spec, ""), Names({"<|end|>"}));
}

TEST(BpeTokenizer, TokenBytes) {
  const TokenizerSpec spec = SmallVocabulary();
  const auto tokenizer = Make(spec);
  const auto bytes = [&](std::string_view name) {
    const auto found = std::find(spec.tokens.begin(), spec.tokens.end(), name);
    return tokenizer->TokenBytes(static_cast<int32_t>(found - spec.tokens.begin()));
  };
  EXPECT_EQ(tokenizer->vocab_size(), static_cast<int64_t>(spec.tokens.size()));
  EXPECT_EQ(bytes("Ġhello"), " hello");
  EXPECT_EQ(bytes("Ã©"), "é");
  EXPECT_EQ(bytes("Ã"), "\xC3");
  EXPECT_EQ(bytes("Ā"), std::string_view("\0", 1));
  EXPECT_EQ(bytes("<tool>"), "<tool>");
  for (const std::string_view name : {"<|end|>", "<unk>", "[PAD]"}) EXPECT_EQ(bytes(name), "");
  EXPECT_DEATH(tokenizer->TokenBytes(-1), "CHECK failed");
  EXPECT_DEATH(tokenizer->TokenBytes(static_cast<int32_t>(spec.tokens.size())), "CHECK failed");
}

TEST(BpeTokenizer, EndTokens) {
  TokenizerSpec spec = SmallVocabulary();
  spec.end_ids = {0, 3, 9};
  const auto tokenizer = Make(spec);
  EXPECT_EQ(tokenizer->end_ids(), Ids({0, 3, 9}));
  for (const int32_t id : {0, 3, 9}) EXPECT_TRUE(tokenizer->IsEnd(id));
  for (const int32_t id : {-1, 1, 2, 8, 10}) EXPECT_FALSE(tokenizer->IsEnd(id));
}

TEST(BpeTokenizer, TextComesBack) {
  const auto tokenizer = Make(SmallVocabulary());
  std::mt19937 random(1);
  const std::string words[] = {"hello", " hello", "aaaaa", "abc", "é", "\n ", "<tool>", "<|end|>"};
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    while (random() % 10 != 0) {
      const char32_t value = random() % 0x40000;  // below the characters that begin with F1
      if (random() % 2 == 0) {
        text += words[random() % std::size(words)];
      } else if (value != 0x04 && (value < 0xD800 || value > 0xDFFF)) {
        AppendUtf8(value, &text);
      }
    }
    ASSERT_EQ(Detokenize(*tokenizer, Encode(*tokenizer, text)), text);
  }
}

TEST(BpeTokenizer, ManyThreadsAtOnce) {
  const auto tokenizer = Make(SmallVocabulary());
  const std::string text = "hello <|end|>hello  aaaaabc é 12";
  const Ids expected = Encode(*tokenizer, text, true);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        EXPECT_EQ(Encode(*tokenizer, text, true), expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(BpeTokenizer, TextMustBeUtf8) {
  const auto tokenizer = Make(SmallVocabulary());
  for (const bool parse_special : {false, true}) {
    EXPECT_TRUE(Fails(tokenizer->Encode("hello \xFF", parse_special),
                      absl::StatusCode::kInvalidArgument, {"not UTF-8", "offset 6"}));
    EXPECT_TRUE(Fails(tokenizer->Encode("<tool>\xED\xA0\x80", parse_special),
                      absl::StatusCode::kInvalidArgument, {"not UTF-8", "offset 6"}));
  }
}

TEST(MakeTokenizer, NamesWhatIsSupported) {
  TokenizerSpec spec = SmallVocabulary();
  spec.model = "bert";
  EXPECT_TRUE(
      Fails(MakeTokenizer(spec), absl::StatusCode::kUnimplemented, {"\"bert\"", "gpt2", "llama"}));
  spec = SmallVocabulary();
  spec.pre_tokenizer = "falcon";
  EXPECT_TRUE(Fails(MakeTokenizer(spec), absl::StatusCode::kUnimplemented,
                    {"\"falcon\"", "gpt-2", "smollm", "llama-bpe", "qwen2"}));
}

TEST(MakeTokenizer, RefusesASpecThatContradictsItself) {
  struct Case {
    std::function<void(TokenizerSpec*)> spoil;
    std::string_view message;
  };
  const auto size = static_cast<int32_t>(SmallVocabulary().tokens.size());
  const Case cases[] = {
      {[](TokenizerSpec* spec) { spec->tokens.clear(); }, "no tokens"},
      {[](TokenizerSpec* spec) { spec->types.pop_back(); }, "token types"},
      {[](TokenizerSpec* spec) { AddToken("hello", Type::kNormal, spec); },
       "(\"hello\") is also token"},
      {[](TokenizerSpec* spec) { AddToken("a b", Type::kNormal, spec); }, "byte alphabet"},
      {[](TokenizerSpec* spec) { AddToken("漢", Type::kNormal, spec); }, "byte alphabet"},
      {[](TokenizerSpec* spec) { AddToken("\xFF", Type::kNormal, spec); },
       "(\"\\xff\") has characters outside"},
      {[](TokenizerSpec* spec) { AddToken("", Type::kControl, spec); }, "no UTF-8 text"},
      {[](TokenizerSpec* spec) { AddToken("\xA9", Type::kUserDefined, spec); }, "no UTF-8 text"},
      {[](TokenizerSpec* spec) { AddToken("<0x41>", Type::kByte, spec); }, "type byte"},
      {[](TokenizerSpec* spec) { spec->merges.push_back("ab"); }, "two tokens"},
      {[](TokenizerSpec* spec) { spec->merges.push_back("hello "); }, "\"\" is not a normal token"},
      {[](TokenizerSpec* spec) { spec->merges.push_back("a b c"); }, "\"b c\" is not a normal"},
      {[](TokenizerSpec* spec) { spec->merges.push_back("xx a"); }, "\"xx\" is not a normal"},
      {[](TokenizerSpec* spec) { spec->merges.push_back("x a"); }, "\"xa\" is not a normal token"},
      {[](TokenizerSpec* spec) { spec->merges.push_back("h e"); }, "is there twice"},
      {[](TokenizerSpec* spec) {
         AddToken("qz", Type::kControl, spec);
         spec->merges.push_back("q z");
       },
       "\"qz\" is not a normal token"},
      {[](TokenizerSpec* spec) { spec->end_ids = {-1}; }, "id -1 is not in 0"},
      {[size](TokenizerSpec* spec) { spec->end_ids = {size}; }, "is not in 0"},
      {[](TokenizerSpec* spec) {
         spec->end_ids = {2, 1};
       },
       "ascending"},
      {[](TokenizerSpec* spec) {
         spec->end_ids = {2, 2};
       },
       "ascending"},
      {[](TokenizerSpec* spec) { spec->bos_id = -2; }, "id -2 is not in 0"},
      {[size](TokenizerSpec* spec) { spec->bos_id = size; }, "is not in 0"},
      {[](TokenizerSpec* spec) { spec->add_bos = true; }, "names none"},
  };
  for (const Case& each : cases) {
    TokenizerSpec spec = SmallVocabulary();
    each.spoil(&spec);
    EXPECT_TRUE(Fails(MakeTokenizer(spec), absl::StatusCode::kInvalidArgument,
                      {"vocabulary is broken", each.message}));
  }
}

}  // namespace
}  // namespace penstock
