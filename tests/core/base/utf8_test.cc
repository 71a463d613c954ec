#include "core/base/utf8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>

#include "tests/support/utf8_reference.h"

namespace penstock {
namespace {

TEST(Utf8, EveryCharacterComesBack) {
  std::string text;
  for (char32_t value = 0; value <= 0x10FFFF; ++value) {
    if (value >= 0xD800 && value <= 0xDFFF) continue;
    text.clear();
    AppendUtf8(value, &text);
    const Utf8Step step = NextUtf8(text);
    ASSERT_EQ(step.kind, Utf8Step::Kind::kCharacter) << static_cast<uint32_t>(value);
    ASSERT_EQ(step.length, static_cast<int64_t>(text.size()));
    ASSERT_EQ(step.value, value);
  }
}

// Every four bytes of the values at which the rules change.
TEST(Utf8, StepsAsTheTableOfTheStandardSays) {
  const std::string edges =
      "\x41\x7F\x80\x8F\x90\x9F\xA0\xBF\xC0\xC1\xC2\xDF\xE0\xE1\xEC\xED\xEE\xEF\xF0\xF1\xF3\xF4\xF5"
      "\xFF";
  std::string bytes(4, '\0');
  for (const char a : edges) {
    for (const char b : edges) {
      for (const char c : edges) {
        for (const char d : edges) {
          bytes = {a, b, c, d};
          for (size_t size = 1; size <= bytes.size(); ++size) {
            const std::string_view part = std::string_view(bytes).substr(0, size);
            const Utf8Prefix expected = LongestUtf8Prefix(part);
            const Utf8Step step = NextUtf8(part);
            const auto kind = expected.whole            ? Utf8Step::Kind::kCharacter
                              : expected.length == size ? Utf8Step::Kind::kTruncated
                                                        : Utf8Step::Kind::kInvalid;
            ASSERT_EQ(step.kind, kind) << testing::PrintToString(std::string(part));
            ASSERT_EQ(step.length, std::max<int64_t>(1, static_cast<int64_t>(expected.length)));
          }
        }
      }
    }
  }
}

TEST(Utf8, FindsTheFirstBadByteBehindAnyRunOfGoodOnes) {
  const std::string bad[] = {
      "\x80",         "\xC0\x80",         "\xC1\xBF",         "\xE0\x9F\xBF", "\xED\xA0\x80",
      "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80",     "\xFF",
      "\xC3",         "\xE6\xBC",         "\xF0\x9F\x98"};
  std::string good;
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(FindInvalidUtf8(good), std::nullopt) << good;
    for (const std::string& tail : bad) {
      const std::optional<int64_t> expected = static_cast<int64_t>(good.size());
      EXPECT_EQ(FindInvalidUtf8(good + tail), expected) << good << tail;
      EXPECT_EQ(FindInvalidUtf8(good + tail + "and more text"), expected) << good << tail;
    }
    good += i % 17 == 11 ? "é" : i % 17 == 13 ? "漢" : i % 17 == 16 ? "😀" : "a";
  }
}

TEST(Utf8, EmptyTextIsValid) { EXPECT_EQ(FindInvalidUtf8(""), std::nullopt); }

TEST(Utf8DeathTest, SurrogatesAndLargerValuesAreNoCharacters) {
  std::string text;
  EXPECT_DEATH(AppendUtf8(0xD800, &text), "CHECK failed");
  EXPECT_DEATH(AppendUtf8(0x110000, &text), "CHECK failed");
  EXPECT_DEATH(NextUtf8(""), "CHECK failed");
}

}  // namespace
}  // namespace penstock
