#include "frontend/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

#include "core/base/utf8.h"

namespace penstock {
namespace {

struct Outcome {
  std::string text;
  std::string stop;  // empty: none
};

// A search over the whole text: the stop text that ends first, the longest of those that do, if it
// ends behind `early` bytes.
Outcome Search(const std::string& text, const std::vector<std::string>& stops, size_t early) {
  for (size_t end = early + 1; end <= text.size(); ++end) {
    std::string longest;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0 &&
          stop.size() > longest.size()) {
        longest = stop;
      }
    }
    if (!longest.empty()) return {text.substr(0, end - longest.size()), longest};
  }
  return {text, ""};
}

Outcome Feed(const std::vector<std::string>& pieces, const std::vector<std::string>& stops,
             size_t early_pieces = 0) {
  StopMatcher matcher(stops);
  Outcome outcome;
  for (size_t i = 0; i < pieces.size(); ++i) {
    outcome.text += matcher.Add(pieces[i], i >= early_pieces);
    if (matcher.stopped()) {
      outcome.stop = matcher.stop();
      return outcome;
    }
  }
  outcome.text += matcher.Finish();
  return outcome;
}

TEST(StopMatcher, FindsAStopAcrossPieces) {
  const Outcome outcome = Feed({"one t", "w", "o th", "ree"}, {"two"});
  EXPECT_EQ(outcome.text, "one ");
  EXPECT_EQ(outcome.stop, "two");
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStop) {
  StopMatcher matcher({"abcabd", "xyz"});
  EXPECT_EQ(matcher.Add("--abcab"), "--");
  EXPECT_EQ(matcher.Add("c"), "abc");  // "abcabc" ends with "abc", a prefix still
  EXPECT_EQ(matcher.Add("q"), "abcq");
  EXPECT_EQ(matcher.Add("xy"), "");
  EXPECT_FALSE(matcher.stopped());
  EXPECT_EQ(matcher.Finish(), "xy");
}

TEST(StopMatcher, WithoutStopsNothingIsHeldBack) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Add("any"), "any");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcher, TheLongestOfThoseThatEndTogether) {
  EXPECT_EQ(Feed({"a\n\nb"}, {"\n", "\n\n"}).stop, "\n");  // the shorter ends earlier
  const Outcome outcome = Feed({"the end"}, {"end", "e end"});
  EXPECT_EQ(outcome.stop, "e end");
  EXPECT_EQ(outcome.text, "th");
}

TEST(StopMatcher, AStopThatIsCompleteTooEarlyIsText) {
  EXPECT_EQ(Feed({"stop", " and stop"}, {"stop"}, 1).text, "stop and ");
  // It began early, and is complete when it may be.
  EXPECT_EQ(Feed({"a st", "op"}, {"stop"}, 1).text, "a ");
  // Overlapping ones: the first is too early, the second is not.
  EXPECT_EQ(Feed({"aba", "ba"}, {"aba"}, 1).text, "ab");
  EXPECT_EQ(Feed({"aa", "a"}, {"aa"}, 1).text, "a");
}

// Any cut of any text gives what a search over the whole text gives; no piece has half a character.
TEST(StopMatcher, AgreesWithASearchOverTheWholeText) {
  std::mt19937 random(7);
  const std::vector<std::string> letters = {"a",           "b", "ab", "é", "\xF0\x9F\x99\x82",
                                            "\xE2\x82\xAC"};
  const auto draw = [&](size_t max) {
    std::string text;
    for (size_t i = 1 + random() % max; i > 0; --i) text += letters[random() % letters.size()];
    return text;
  };
  int64_t stopped = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(random() % 5);
    for (std::string& stop : stops) stop = draw(6);
    std::vector<std::string> pieces(1 + random() % 12);
    const size_t early_pieces = random() % 4 == 0 ? random() % (pieces.size() + 1) : 0;
    std::string text;
    size_t early = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (random() % 8 != 0) pieces[i] = draw(4);
      if (i == early_pieces) early = text.size();
      text += pieces[i];
    }
    if (early_pieces == pieces.size()) early = text.size();
    const Outcome expected = Search(text, stops, early);
    const Outcome found = Feed(pieces, stops, early_pieces);
    ASSERT_EQ(found.text, expected.text) << text;
    ASSERT_EQ(found.stop, expected.stop) << text;
    stopped += found.stop.empty() ? 0 : 1;

    StopMatcher matcher(stops);
    for (size_t i = 0; i < pieces.size() && !matcher.stopped(); ++i) {
      ASSERT_FALSE(FindInvalidUtf8(matcher.Add(pieces[i], i >= early_pieces)).has_value());
    }
  }
  EXPECT_GT(stopped, 5000);
  EXPECT_LT(stopped, 19000);
}

}  // namespace
}  // namespace penstock
