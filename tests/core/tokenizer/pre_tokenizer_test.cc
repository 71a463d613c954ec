#include "core/tokenizer/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/utf8.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using Pieces = std::vector<std::string>;

std::unique_ptr<const PreTokenizer> Make(std::string_view name) {
  auto made = PreTokenizer::Make(name);
  EXPECT_TRUE(IsOk(made));
  return std::move(made).value();
}

Pieces Split(const PreTokenizer& pre_tokenizer, std::string_view text) {
  std::vector<std::string_view> views;
  EXPECT_TRUE(IsOk(pre_tokenizer.Split(text, &views)));
  return Pieces(views.begin(), views.end());
}

TEST(PreTokenizer, Gpt2) {
  const auto gpt2 = Make("gpt-2");
  const auto split = [&](std::string_view text) { return Split(*gpt2, text); };
  EXPECT_EQ(split(""), Pieces());
  EXPECT_EQ(split("Hello world"), Pieces({"Hello", " world"}));
  EXPECT_EQ(split("I'll don't we've 'S"),
            Pieces({"I", "'ll", " don", "'t", " we", "'ve", " '", "S"}));
  EXPECT_EQ(split("in 2026, v1.5"), Pieces({"in", " 2026", ",", " v", "1", ".", "5"}));
  // A space goes to the word behind it; the rest of a run of white space stands alone.
  EXPECT_EQ(split("a   b"), Pieces({"a", "  ", " b"}));
  EXPECT_EQ(split("a\n\nb"), Pieces({"a", "\n", "\n", "b"}));
  EXPECT_EQ(split("a  "), Pieces({"a", "  "}));
  EXPECT_EQ(split("a  1"), Pieces({"a", " ", " 1"}));
  EXPECT_EQ(split("漢字 été!?"), Pieces({"漢字", " été", "!?"}));
}

TEST(PreTokenizer, SmollmSplitsEveryNumberOff) {
  const auto smollm = Make("smollm");
  const auto split = [&](std::string_view text) { return Split(*smollm, text); };
  EXPECT_EQ(split("2026"), Pieces({"2", "0", "2", "6"}));
  EXPECT_EQ(split(" 1"), Pieces({" ", "1"}));
  EXPECT_EQ(split("a  1"), Pieces({"a", "  ", "1"}));  // the look-ahead does not see the number
  EXPECT_EQ(split("a  b1"), Pieces({"a", " ", " b", "1"}));
  EXPECT_EQ(split("x²½Ⅷ٣ '1's"), Pieces({"x", "²", "½", "Ⅷ", "٣", " '", "1", "'s"}));
  EXPECT_EQ(split("3.14\n 15"), Pieces({"3", ".", "1", "4", "\n ", "1", "5"}));
}

TEST(PreTokenizer, LlamaBpeTakesNumbersByThreesAndLineEndsAlong) {
  const auto llama = Make("llama-bpe");
  const auto split = [&](std::string_view text) { return Split(*llama, text); };
  EXPECT_EQ(split("1234567"), Pieces({"123", "456", "7"}));
  EXPECT_EQ(split("in 2026"), Pieces({"in", " ", "202", "6"}));
  EXPECT_EQ(split("I'LL it'ſ"), Pieces({"I", "'LL", " it", "'ſ"}));
  EXPECT_EQ(split("(word) -x"), Pieces({"(word", ")", " -", "x"}));
  EXPECT_EQ(split("end.\r\n\n next"), Pieces({"end", ".\r\n\n", " next"}));
  EXPECT_EQ(split("a \n \n  b"), Pieces({"a", " \n \n", " ", " b"}));
  EXPECT_EQ(split("\tx"), Pieces({"\tx"}));
  for (const char* alias : {"llama3", "llama-v3"}) {
    EXPECT_EQ(Split(*Make(alias), "1234"), Pieces({"123", "4"}));
  }
}

TEST(PreTokenizer, Qwen2TakesNumbersByOne) {
  EXPECT_EQ(Split(*Make("qwen2"), "x 12!\n"), Pieces({"x", " ", "1", "2", "!\n"}));
}

TEST(PreTokenizer, TekkenCutsBeforeCapitals) {
  const auto tekken = Make("tekken");
  const auto split = [&](std::string_view text) { return Split(*tekken, text); };
  EXPECT_EQ(split("camelCaseHTTPServer"), Pieces({"camel", "Case", "HTTPServer"}));
  EXPECT_EQ(split("don't ABC"), Pieces({"don", "'t", " ABC"}));
  EXPECT_EQ(split("a//\nb 12"), Pieces({"a", "//\n", "b", " ", "1", "2"}));
}

// Where PCRE2's own classes are another version of Unicode than those of Hugging Face.
TEST(PreTokenizer, ClassesAreThoseOfHuggingFace) {
  const auto gpt2 = Make("gpt-2");
  const auto smollm = Make("smollm");
  // U+180E, U+200B and U+001C are no white space; U+0085 and U+3000 are.
  EXPECT_EQ(Split(*gpt2, "!\u180E!"), Pieces({"!\u180E!"}));
  EXPECT_EQ(Split(*gpt2, "!\u200B!"), Pieces({"!\u200B!"}));
  EXPECT_EQ(Split(*gpt2, "!\x1C!"), Pieces({"!\x1C!"}));
  EXPECT_EQ(Split(*gpt2, "!\u0085!"), Pieces({"!", "\u0085", "!"}));
  EXPECT_EQ(Split(*gpt2, "!\u3000!"), Pieces({"!", "\u3000", "!"}));
  // Letters of Unicode 15 and 16, a digit of 16.
  EXPECT_EQ(Split(*gpt2, "a\U00011F04\U00010D50"), Pieces({"a\U00011F04\U00010D50"}));
  EXPECT_EQ(Split(*gpt2, "1\U00010D40"), Pieces({"1\U00010D40"}));
  // A digit of Unicode 17: only the digit splitter knows it.
  EXPECT_EQ(Split(*gpt2, "!\U00011DE0"), Pieces({"!\U00011DE0"}));
  EXPECT_EQ(Split(*smollm, "!\U00011DE0\U00011DE1"), Pieces({"!", "\U00011DE0", "\U00011DE1"}));
}

TEST(PreTokenizer, PiecesTogetherAreTheText) {
  std::mt19937 random(1);
  const std::string words[] = {"'s", "  ", "\n", "12", "é", "\u3000", "...", "'", "ab"};
  for (const std::string_view name : {"gpt-2", "smollm"}) {
    const auto pre_tokenizer = Make(name);
    for (int round = 0; round < 3000; ++round) {
      std::string text;
      while (random() % 12 != 0) {
        const char32_t value = random() % 0x110000;
        if (random() % 2 == 0) {
          text += words[random() % std::size(words)];
        } else if (value < 0xD800 || value > 0xDFFF) {
          AppendUtf8(value, &text);
        }
      }
      std::string joined;
      for (const std::string& piece : Split(*pre_tokenizer, text)) {
        ASSERT_FALSE(piece.empty());
        ASSERT_EQ(FindInvalidUtf8(piece), std::nullopt);
        joined += piece;
      }
      ASSERT_EQ(joined, text);
    }
  }
}

std::string Repeat(std::string_view unit, int64_t count) {
  std::string text;
  for (int64_t i = 0; i < count; ++i) text += unit;
  return text;
}

// Neither the regular expression's stack nor its step limit ends a long run.
TEST(PreTokenizer, LongRuns) {
  constexpr int64_t kCount = 1000000;
  for (const std::string_view name : {"gpt-2", "smollm"}) {
    const auto pre_tokenizer = Make(name);
    for (const std::string_view unit : {"a", " ", "\n", "!", "'", "é", "漢", "\u3000", "😀"}) {
      const std::string run = Repeat(unit, kCount);
      EXPECT_TRUE(Split(*pre_tokenizer, run) == Pieces({run})) << name << " " << unit;
    }
    // White space before a word: the look-ahead gives the last of the run back.
    const std::string spaces = Repeat(" ", kCount - 1);
    EXPECT_TRUE(Split(*pre_tokenizer, spaces + " a") == Pieces({spaces, " a"})) << name;
    const std::string lines = Repeat("\n", kCount - 1);
    EXPECT_TRUE(Split(*pre_tokenizer, lines + "\na") == Pieces({lines, "\n", "a"})) << name;
    EXPECT_EQ(Split(*pre_tokenizer, Repeat("a b", kCount)).size(), kCount + 1u) << name;
  }
  const std::string digits = Repeat("7", kCount);
  EXPECT_TRUE(Split(*Make("gpt-2"), digits) == Pieces({digits}));
  EXPECT_EQ(Split(*Make("smollm"), digits).size(), static_cast<size_t>(kCount));
}

TEST(PreTokenizer, ManyThreadsAtOnce) {
  const auto smollm = Make("smollm");
  const std::string text = "It's 12 o'clock,  été 漢字 ";
  const Pieces expected = Split(*smollm, text);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) EXPECT_EQ(Split(*smollm, text), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(PreTokenizer, UnknownNames) {
  EXPECT_TRUE(Fails(PreTokenizer::Make("qwen9"), absl::StatusCode::kUnimplemented,
                    {"\"qwen9\"", "gpt-2", "smollm"}));
  EXPECT_TRUE(Fails(PreTokenizer::Make("\n"), absl::StatusCode::kUnimplemented, {"\"\\n\""}));
}

}  // namespace
}  // namespace penstock
