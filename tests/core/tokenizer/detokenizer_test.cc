#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/base/utf8.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/support/utf8_reference.h"

namespace penstock {
namespace {

// A vocabulary of given byte strings.
class ChunkTokenizer : public Tokenizer {
 public:
  explicit ChunkTokenizer(std::vector<std::string> chunks) : chunks_(std::move(chunks)) {}

  absl::StatusOr<std::vector<int32_t>> EncodeParts(std::span<const TextPart>, bool) const override {
    return absl::UnimplementedError("the test needs only the way back");
  }
  std::string_view TokenBytes(int32_t id) const override { return chunks_[id]; }
  int64_t vocab_size() const override { return static_cast<int64_t>(chunks_.size()); }
  const std::vector<int32_t>& end_ids() const override { return end_ids_; }

  std::vector<int32_t> AllIds() const {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < chunks_.size(); ++i) ids.push_back(static_cast<int32_t>(i));
    return ids;
  }

 private:
  std::vector<std::string> chunks_;
  std::vector<int32_t> end_ids_;
};

// Feeds the chunks and checks, after each, that all that is certain has come out and no more.
void CheckStream(const std::vector<std::string>& chunks) {
  const ChunkTokenizer tokenizer(chunks);
  StreamingDetokenizer detokenizer(tokenizer);
  std::string bytes;
  std::string text;
  for (size_t i = 0; i < chunks.size(); ++i) {
    bytes += chunks[i];
    text += detokenizer.Add(static_cast<int32_t>(i));
    size_t held_back = 0;
    ASSERT_EQ(text, ReplaceInvalidUtf8(bytes, &held_back)) << testing::PrintToString(bytes);
    ASSERT_LE(held_back, 3u);
  }
  text += detokenizer.Finish();
  ASSERT_EQ(text, ReplaceInvalidUtf8(bytes)) << testing::PrintToString(bytes);
  ASSERT_EQ(Detokenize(tokenizer, tokenizer.AllIds()), text);
  ASSERT_EQ(detokenizer.Finish(), "");
}

TEST(Detokenizer, ThreeChunksCutAnywhere) {
  const std::string text = "aé漢😀b\u0301\u00A0👍🏽\n\xEF\xBF\xBD";
  for (size_t i = 0; i <= text.size(); ++i) {
    for (size_t j = i; j <= text.size(); ++j) {
      CheckStream({text.substr(0, i), text.substr(i, j - i), text.substr(j)});
    }
  }
}

TEST(Detokenizer, ByteByByteGivesWholeCharacters) {
  const ChunkTokenizer tokenizer({"\xF0", "\x9F", "\x98", "\x80", "a"});
  StreamingDetokenizer detokenizer(tokenizer);
  EXPECT_EQ(detokenizer.Add(0), "");
  EXPECT_EQ(detokenizer.Add(1), "");
  EXPECT_EQ(detokenizer.Add(2), "");
  EXPECT_EQ(detokenizer.Add(3), "😀");
  EXPECT_EQ(detokenizer.Add(4), "a");
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST(Detokenizer, OneReplacementForEachMaximalInvalidPart) {
  const std::pair<std::string, int> cases[] = {
      {"\x80", 1},             // a continuation byte alone
      {"\xC0\x80", 2},         // overlong
      {"\xE0\x80\x80", 3},     // overlong: E0 80 begins no character
      {"\xED\xA0\x80", 3},     // a surrogate
      {"\xF4\x90\x80\x80", 4}  // above U+10FFFF
  };
  for (const auto& [bytes, count] : cases) {
    std::string expected = "a";
    for (int i = 0; i < count; ++i) expected += kReplacementCharacter;
    EXPECT_EQ(Detokenize(ChunkTokenizer({"a" + bytes + "b"}), {0}), expected + "b");
  }
  // Begun and broken off: one for all of its bytes.
  EXPECT_EQ(Detokenize(ChunkTokenizer({"\xF0\x9F\x98z"}), {0}), "\xEF\xBF\xBDz");
  EXPECT_EQ(Detokenize(ChunkTokenizer({"z\xE6\xBC"}), {0}), "z\xEF\xBF\xBD");
}

TEST(Detokenizer, EmptyAgainAfterFinish) {
  const ChunkTokenizer tokenizer({"\xE6\xBC", "\xA2", ""});
  StreamingDetokenizer detokenizer(tokenizer);
  EXPECT_EQ(detokenizer.Add(0), "");
  EXPECT_EQ(detokenizer.Add(2), "");  // as a control token
  EXPECT_EQ(detokenizer.Finish(), kReplacementCharacter);
  EXPECT_EQ(detokenizer.Add(1), kReplacementCharacter);
  EXPECT_EQ(detokenizer.Finish(), "");
  EXPECT_EQ(Detokenize(tokenizer, {}), "");
}

TEST(Detokenizer, RandomBytesInRandomChunks) {
  // The bytes at which the rules of UTF-8 change, so that nearly characters are frequent.
  const std::string edges =
      "az\x80\x8F\x90\x9F\xA0\xBF\xC1\xC2\xDF\xE0\xE1\xEC\xED\xEF\xF0\xF1\xF4\xF5\xFF";
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> chunks(1 + random() % 6);
    for (std::string& chunk : chunks) {
      const size_t size = random() % 5;
      for (size_t i = 0; i < size; ++i) {
        chunk +=
            round % 4 == 0 ? static_cast<char>(random() % 256) : edges[random() % edges.size()];
      }
    }
    CheckStream(chunks);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace penstock
