// The mutators of the fuzz targets: what they promise, on documents that may be checked by hand.
#include "tests/fuzz/mutator.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <string_view>

// Stands for libFuzzer's.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t) {
  data[size - 1] ^= 1;
  return size;
}

namespace penstock::fuzz {
namespace {

constexpr int kRounds = 20000;

TEST(RandomTest, FollowsFromItsSeedAlone) {
  Random a(7);
  Random b(7);
  Random c(8);
  EXPECT_EQ(a.Next(), b.Next());
  EXPECT_NE(a.Next(), c.Next());
}

TEST(BinaryMutatorTest, SetsIntegersToBoundariesInPlace) {
  std::set<uint64_t> seen;
  for (int round = 0; round < kRounds; ++round) {
    Random random(static_cast<uint64_t>(round));
    std::string bytes(16, '\0');
    SetInteger(bytes, 4, 8, random);
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + 4, 8);
    seen.insert(value);
    EXPECT_EQ(bytes.size(), 16u);
    EXPECT_EQ(bytes.substr(0, 4) + bytes.substr(12), std::string(8, '\0'));
  }
  for (const uint64_t boundary : kBoundaries) EXPECT_TRUE(seen.contains(boundary)) << boundary;
}

TEST(BinaryMutatorTest, TakesAnyBytesAtAll) {
  Random random(1);
  const Words words = {"GGUF", ""};
  std::string bytes;
  for (int round = 0; round < kRounds; ++round) {
    MutateBinary(bytes, random, words);
    if (bytes.size() > 4096) bytes.clear();
  }
}

TEST(JsonMutatorTest, FindsTheTokens) {
  const std::string_view text = R"({"a\"b": [-1.5e3, null], "c":"d})";
  std::vector<std::string> tokens;
  for (const JsonToken& token : ScanJson(text)) {
    tokens.emplace_back(text.substr(token.begin, token.end - token.begin));
  }
  const std::vector<std::string> expected = {"{", R"("a\"b")", ":",      "[", "-1.5e3", ",", "null",
                                             "]", ",",         R"("c")", ":", R"("d})"};
  EXPECT_EQ(tokens, expected);
}

// The kinds of change that no change of single bytes would make.
TEST(JsonMutatorTest, ChangesNumbersStringsAndStructure) {
  const std::string seed = R"({"size": 64, "name": "llama", "list": [1, 2]})";
  const Words words = {"architectures"};
  std::set<std::string> seen;
  for (int round = 0; round < kRounds; ++round) {
    Random random(static_cast<uint64_t>(round));
    std::string text = seed;
    MutateJson(text, random, words);
    seen.insert(text);
  }
  for (const std::string_view expected :
       {R"({"size": 9223372036854775808, "name": "llama", "list": [1, 2]})",
        R"({"size": -1, "name": "llama", "list": [1, 2]})",
        R"({"size": 64, "name": "architectures", "list": [1, 2]})",
        R"({"size": 64, "name": "llama", "size": [1, 2]})", R"({ "name": "llama", "list": [1, 2]})",
        R"({"size": 64, "name": "llama"})",
        R"({"size": 64,"size": 64, "name": "llama", "list": [1, 2]})",
        R"({"size": 64, "name": [["llama"]], "list": [1, 2]})",
        R"({"size": null, "name": "llama", "list": [1, 2]})",
        R"({"size": 64, "name": [1, 2], "list": [1, 2]})"}) {
    EXPECT_TRUE(seen.contains(std::string(expected))) << expected;
  }
}

TEST(JsonMutatorTest, TakesAnyTextAtAll) {
  Random random(2);
  const Words words = {"a\"b", "\\"};
  std::string text;
  for (int round = 0; round < kRounds; ++round) {
    MutateJson(text, random, words);
    if (text.size() > 1000) text = R"([{"a":1},"b"])";
  }
}

std::string Wire(std::initializer_list<WireField> fields) {
  std::string bytes;
  for (const WireField& field : fields) PutField(bytes, field);
  return bytes;
}

TEST(WireMutatorTest, ReadsWhatItWrites) {
  const std::string inner =
      Wire({{1 << 3 | kBytes, 0, "piece"}, {2 << 3 | kFixed32, 0, "\1\2\3\4"}});
  const std::string bytes = Wire({{1 << 3 | kBytes, 0, inner}, {3 << 3 | kVarint, UINT64_MAX, ""}});
  const auto fields = ScanWire(bytes);
  ASSERT_TRUE(fields.has_value());
  ASSERT_EQ(fields->size(), 2u);
  EXPECT_EQ((*fields)[0].payload, inner);
  EXPECT_EQ((*fields)[1].varint, UINT64_MAX);
  EXPECT_FALSE(ScanWire(std::string_view(bytes).substr(0, bytes.size() - 1)).has_value());
}

// A change of the inner text leaves right lengths around it.
TEST(WireMutatorTest, ReachesInnerFieldsAndKeepsTheLengthsRight) {
  const std::string inner = Wire({{1 << 3 | kBytes, 0, "piece"}, {3 << 3 | kVarint, 1, ""}});
  const std::string seed = Wire({{1 << 3 | kBytes, 0, inner}, {2 << 3 | kVarint, 5, ""}});
  const Words words = {"a word that is longer than the piece"};
  int with_word = 0;
  int whole = 0;
  std::set<uint64_t> numbers;
  for (int round = 0; round < kRounds; ++round) {
    Random random(static_cast<uint64_t>(round));
    std::string bytes = seed;
    MutateWire(bytes, random, words);
    const auto fields = ScanWire(bytes);
    if (!fields || fields->empty()) continue;
    ++whole;
    const auto inside = ScanWire((*fields)[0].payload);
    if (inside && !inside->empty() && inside->front().payload == words[0]) ++with_word;
    if (inside && inside->size() == 2) numbers.insert(inside->back().varint);
  }
  EXPECT_GT(whole, kRounds / 2);
  EXPECT_GT(with_word, kRounds / 100);
  EXPECT_TRUE(numbers.contains(uint64_t{1} << 63));
}

TEST(WireMutatorTest, TakesAnyBytesAtAll) {
  Random random(3);
  const Words words = {"piece"};
  std::string bytes;
  for (int round = 0; round < kRounds; ++round) {
    MutateWire(bytes, random, words);
    if (bytes.size() > 1000) bytes = Wire({{1 << 3 | kBytes, 0, "piece"}});
  }
}

TEST(MutatorTest, StartsFromASeedAndStaysWithinTheSizeItMayUse) {
  const Format format{"{", {R"({"size": 64})", R"({"name": "x"})"}, {"word"}, MutateJson};
  uint8_t data[64] = {};
  size_t size = 0;
  int documents = 0;
  for (int round = 0; round < kRounds; ++round) {
    const size_t max_size = 4 + static_cast<size_t>(round) % 60;
    size = Mutate(format, data, std::min(size, max_size), max_size, static_cast<unsigned>(round));
    ASSERT_LE(size, max_size);
    if (size > 0 && data[0] == '{') ++documents;
  }
  EXPECT_GT(documents, kRounds / 2);
}

}  // namespace
}  // namespace penstock::fuzz
