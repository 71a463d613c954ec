#include "frontend/answer_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>

#include "tests/support/small_vocabulary.h"

namespace penstock {
namespace {

class AnswerStreamTest : public testing::Test {
 protected:
  AnswerStreamTest() : tokenizer_(MakeTokenizer(SmallVocabulary()).value()) {
    request_.generation.sampling.stop_ids = {0, 1};
  }
  std::vector<GeneratedToken> Tokens(std::string_view text) const {
    std::vector<GeneratedToken> tokens;
    const TextPart part{text, false};
    const std::vector<int32_t> ids = tokenizer_->EncodeParts({&part, 1}, false).value();
    for (const int32_t id : ids) tokens.emplace_back().id = id;
    return tokens;
  }

  const std::unique_ptr<Tokenizer> tokenizer_;
  CheckedRequest request_;
};

TEST_F(AnswerStreamTest, AStopTextEndsTheAnswerWithTheTokenThatCompletesIt) {
  request_.stop = {"zq"};
  AnswerStream answer(*tokenizer_, request_);
  const AnswerStream::Piece piece = answer.Add(Tokens("xyzqw"));  // a token a letter
  EXPECT_EQ(piece.text, "xy");
  EXPECT_EQ(piece.tokens, 4);
  EXPECT_TRUE(answer.stopped());
  EXPECT_EQ(answer.stop_text(), "zq");
  EXPECT_EQ(answer.num_tokens(), 4);
  EXPECT_FALSE(answer.stop_id().has_value());
}

TEST_F(AnswerStreamTest, AStopTextWithinATokenCutsItsText) {
  request_.stop = {"el"};
  AnswerStream answer(*tokenizer_, request_);
  const AnswerStream::Piece piece = answer.Add(Tokens("hello"));  // one token
  EXPECT_EQ(piece.text, "h");
  EXPECT_EQ(piece.tokens, 1);
  request_.include_stop = true;
  AnswerStream with(*tokenizer_, request_);
  EXPECT_EQ(with.Add(Tokens("hello")).text, "hel");
}

TEST_F(AnswerStreamTest, TextThatMayBecomeAStopTextWaits) {
  request_.stop = {"yz."};
  AnswerStream answer(*tokenizer_, request_);
  EXPECT_EQ(answer.Add(Tokens("xy")).text, "x");
  EXPECT_EQ(answer.Add(Tokens("z")).text, "");
  EXPECT_EQ(answer.Add(Tokens("y")).text, "yz");
  EXPECT_EQ(answer.Finish(), "y");
  EXPECT_FALSE(answer.stopped());
}

TEST_F(AnswerStreamTest, CharactersOfSeveralTokensAreWhole) {
  request_.stop = {"\xE2\x82\xAC"};  // three tokens
  AnswerStream answer(*tokenizer_, request_);
  const std::vector<GeneratedToken> tokens = Tokens("\xE2\x82\xACx");
  EXPECT_EQ(answer.Add({tokens.data(), 2}).text, "");
  EXPECT_EQ(answer.Add({tokens.data() + 2, 2}).tokens, 1);
  EXPECT_TRUE(answer.stopped());
}

TEST_F(AnswerStreamTest, AStopIdsTextIsLeftOutUnlessWanted) {
  const int32_t z = Tokens("z")[0].id;
  request_.generation.sampling.stop_ids = {0, 1, z};
  AnswerStream answer(*tokenizer_, request_);
  EXPECT_EQ(answer.Add(Tokens("xyz")).text, "xy");
  EXPECT_EQ(answer.Finish(), "");
  EXPECT_EQ(answer.stop_id(), z);
  EXPECT_FALSE(answer.stopped());
  request_.include_stop = true;
  AnswerStream with(*tokenizer_, request_);
  EXPECT_EQ(with.Add(Tokens("xyz")).text, "xyz");
}

TEST_F(AnswerStreamTest, MinTokensStandBeforeTheOneThatStops) {
  request_.stop = {"x"};
  request_.generation.sampling.min_tokens = 2;
  AnswerStream answer(*tokenizer_, request_);
  const AnswerStream::Piece piece = answer.Add(Tokens("xxxx"));
  EXPECT_EQ(piece.text, "xx");
  EXPECT_EQ(piece.tokens, 3);
}

TEST_F(AnswerStreamTest, ACharacterThatStaysBrokenMayCompleteAStopText) {
  request_.stop = {"x\xEF\xBF\xBD"};
  AnswerStream answer(*tokenizer_, request_);
  std::vector<GeneratedToken> tokens = Tokens("wx\xE2\x82\xAC");
  tokens.pop_back();
  EXPECT_EQ(answer.Add(tokens).text, "w");
  EXPECT_EQ(answer.Finish(), "");
  EXPECT_TRUE(answer.stopped());
}

// Tokens in any portions give the text of all at once up to the stop text, and end with the first
// token whose text completes one.
TEST_F(AnswerStreamTest, AnyPortionsGiveTheSame) {
  std::mt19937 random(3);
  const std::string letters = "ablxehz";
  int64_t stopped = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<GeneratedToken> tokens;
    std::vector<int32_t> ids;
    for (size_t i = 1 + random() % 30; i > 0; --i) {
      ids.push_back(static_cast<int32_t>(5 + random() % 264));
      if (random() % 8 != 0) ids.back() = Tokens({&letters[random() % letters.size()], 1})[0].id;
      tokens.emplace_back().id = ids.back();
    }
    request_.stop.clear();
    for (size_t i = random() % 3; i > 0; --i) {
      std::string& stop = request_.stop.emplace_back();
      for (size_t j = 1 + random() % 3; j > 0; --j) stop += "ablx"[random() % 4];
    }
    const std::string whole = Detokenize(*tokenizer_, ids);
    size_t end = std::string::npos;  // behind the first complete stop text
    for (const std::string& stop : request_.stop) {
      const size_t at = whole.find(stop);
      if (at != std::string::npos) end = std::min(end, at + stop.size());
    }

    AnswerStream answer(*tokenizer_, request_);
    std::string text;
    int64_t taken = 0;
    for (size_t i = 0; i < tokens.size() && !answer.stopped();) {
      const size_t count = std::min(1 + random() % 5, tokens.size() - i);
      const AnswerStream::Piece piece = answer.Add({tokens.data() + i, count});
      text += piece.text;
      taken += piece.tokens;
      i += count;
    }
    if (!answer.stopped()) text += answer.Finish();
    ASSERT_EQ(answer.stopped(), end != std::string::npos);
    EXPECT_EQ(answer.num_tokens(), taken);
    if (!answer.stopped()) {
      EXPECT_EQ(text, whole);
      EXPECT_EQ(taken, static_cast<int64_t>(tokens.size()));
      continue;
    }
    ++stopped;
    EXPECT_EQ(text + answer.stop_text(), whole.substr(0, end));
    const std::vector<int32_t> kept(ids.begin(), ids.begin() + taken);
    EXPECT_NE(Detokenize(*tokenizer_, kept).find(answer.stop_text()), std::string::npos);
    const std::vector<int32_t> fewer(ids.begin(), ids.begin() + taken - 1);
    EXPECT_EQ(Detokenize(*tokenizer_, fewer).find(answer.stop_text(), text.size()),
              std::string::npos);
  }
  EXPECT_GT(stopped, 500);
}

}  // namespace
}  // namespace penstock
