#include "core/io/json.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"

namespace penstock {
namespace {

using absl::StatusCode;

absl::StatusOr<std::unique_ptr<const JsonDocument>> Parse(std::string_view text,
                                                          int64_t max_bytes = 1 << 20) {
  return JsonDocument::Parse("a.json", text, max_bytes);
}

::testing::AssertionResult Refused(std::string_view text,
                                   std::initializer_list<std::string_view> words) {
  return Fails(Parse(text), StatusCode::kInvalidArgument, words);
}

TEST(JsonTest, ReadsEveryType) {
  const auto document = Parse(
      R"({"n": null, "b": true, "i": -3, "d": 1e6, "s": "\u00e9\n", "a": [1, [2], {}], "o": {"x": 0}})");
  ASSERT_TRUE(IsOk(document));
  const JsonValue root = (*document)->root();
  EXPECT_EQ(root.size(), 7);
  EXPECT_FALSE(root.Find("n").has_value());
  EXPECT_TRUE(root.Has("n"));
  EXPECT_FALSE(root.Find("none").has_value());
  EXPECT_FALSE(root.Has("none"));
  EXPECT_EQ(*root.Bool("b"), true);
  EXPECT_EQ(*root.Int("i"), -3);
  EXPECT_EQ(*root.Number("d"), 1e6);
  EXPECT_EQ(*root.Number("i"), -3.0);
  EXPECT_EQ(*root.String("s"), "\xc3\xa9\n");
  EXPECT_EQ(root.Find("a")->size(), 3);
  EXPECT_EQ(*root.Find("a")->at(1).at(0).AsInt(), 2);
  EXPECT_EQ(root.Find("a")->at(2).size(), 0);
  EXPECT_EQ(*root.Get("o")->Int("x"), 0);
  EXPECT_EQ(*root.IntOr("none", 7), 7);
  EXPECT_EQ(*root.IntOr("n", 7), 7);
  EXPECT_EQ(*root.BoolOr("none", true), true);
  EXPECT_EQ(*root.NumberOr("none", 0.5), 0.5);
  EXPECT_EQ(*root.StringOr("none", "x"), "x");
}

TEST(JsonTest, MembersComeInTheDocumentsOrderAndAreFoundByName) {
  const auto document = Parse(R"({"zeta": 1, "alpha": 2, "": 3, "beta": 4})");
  ASSERT_TRUE(IsOk(document));
  const JsonValue root = (*document)->root();
  std::string order;
  for (int64_t i = 0; i < root.size(); ++i) order += std::string(root.at(i).key()) + ";";
  EXPECT_EQ(order, "zeta;alpha;;beta;");
  EXPECT_EQ(*root.Int("alpha"), 2);
  EXPECT_EQ(*root.Int(""), 3);
  EXPECT_EQ(*root.Int("zeta"), 1);
}

TEST(JsonTest, ADocumentMayBeOneValue) {
  EXPECT_EQ(*(*Parse("5"))->root().AsInt(), 5);
  EXPECT_EQ((*Parse("[]"))->root().size(), 0);
  EXPECT_EQ(*(*Parse("\"x\""))->root().AsString(), "x");
}

TEST(JsonTest, ErrorsNameFilePathValueAndWhatIsExpected) {
  const auto document = Parse(R"({"rope": {"factor": "x", "list": [1, {"deep": []}]}, "i": 1.5})");
  ASSERT_TRUE(IsOk(document));
  const JsonValue root = (*document)->root();
  const JsonValue rope = *root.Find("rope");
  const auto message = [](const auto& result) { return Message(result.status()); };
  EXPECT_EQ(message(rope.Number("factor")), "a.json: rope.factor is 'x'; a number is expected");
  EXPECT_EQ(message(root.Int("i")), "a.json: i is 1.5; an integer below 2^63 is expected");
  EXPECT_EQ(message(rope.Bool("list")),
            "a.json: rope.list is an array of 2; true or false is expected");
  EXPECT_EQ(message(rope.Find("list")->at(1).String("deep")),
            "a.json: rope.list[1].deep is an array of 0; a string is expected");
  EXPECT_EQ(message(rope.Int("none")), "a.json: there is no 'none' in rope");
  EXPECT_EQ(message(root.Int("none")), "a.json: there is no 'none'");
  EXPECT_EQ(Message(root.CheckArray()), "a.json: the document is an object; an array is expected");
  EXPECT_EQ(message(rope.Find("factor")->Get("x")),
            "a.json: rope.factor is 'x'; an object is expected");
}

TEST(JsonTest, NamesInErrorsAreEscapedAndCut) {
  const auto document = Parse("{\"\\u001b[31m\": {\"" + std::string(500, 'k') + "\": 1}}");
  ASSERT_TRUE(IsOk(document));
  const JsonValue inner = (*document)->root().at(0).at(0);
  EXPECT_TRUE(Fails(inner.AsString(), StatusCode::kInvalidArgument, {"\\x1b[31m.kkk", "..."}));
  EXPECT_LT(inner.AsString().status().message().size(), 200u);
}

TEST(JsonTest, IntegersBeyond63BitsAreNumbersOnly) {
  const auto document = Parse(
      "[9223372036854775807, 9223372036854775808, 18446744073709551615, "
      "18446744073709551616, -9223372036854775808, -9223372036854775809]");
  ASSERT_TRUE(IsOk(document));
  const JsonValue root = (*document)->root();
  EXPECT_EQ(*root.at(0).AsInt(), INT64_MAX);
  EXPECT_EQ(*root.at(4).AsInt(), INT64_MIN);
  for (const int64_t i : {1, 2, 3, 5}) {
    EXPECT_TRUE(Fails(root.at(i).AsInt(), StatusCode::kInvalidArgument, {"an integer"})) << i;
    EXPECT_TRUE(IsOk(root.at(i).AsNumber()));
  }
}

TEST(JsonTest, WhatIsNotJsonSaysAtWhichByte) {
  EXPECT_TRUE(Refused("", {"a.json: is not JSON, at byte 1", "unexpected end of input"}));
  EXPECT_TRUE(Refused("{\"a\": 1,}", {"at byte 9"}));
  EXPECT_TRUE(Refused("{} {}", {"at byte 4"}));
  EXPECT_TRUE(Refused("{\"a\": NaN}", {"at byte"}));
  EXPECT_TRUE(Refused("\"\x01\"", {"at byte 2"}));
  EXPECT_TRUE(Refused("\"\xff\x1b[2J\"", {"at byte 2"}));
  EXPECT_TRUE(Refused("\"\\ud800\"", {"at byte"}));
  EXPECT_TRUE(Refused("[1e999]", {"number overflow"}));
  EXPECT_TRUE(Refused("{\"a\": \"b", {"at byte"}));
  EXPECT_TRUE(Refused("version https://git-lfs.github.com/spec/v1", {"at byte 1"}));
}

TEST(JsonTest, KeysThatComeTwiceAreRefused) {
  EXPECT_TRUE(Refused(R"({"a": 1, "b": 2, "a": 3})", {"a.json", "the key 'a' is there twice"}));
  EXPECT_TRUE(Refused(R"([{"x": {"a": 1, "\u0061": 3}}])", {"'a' is there twice"}));
  EXPECT_TRUE(IsOk(Parse(R"([{"a": 1}, {"a": {"a": 3}}])")));
}

TEST(JsonTest, DepthBombsAreRefused) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_TRUE(IsOk(Parse(nested(64))));
  EXPECT_TRUE(Refused(nested(65), {"nest more than 64 deep"}));
  EXPECT_TRUE(Refused(std::string(500000, '['), {"nest more than 64 deep"}));
  std::string objects;
  for (int i = 0; i < 65; ++i) objects += "{\"a\":";
  EXPECT_TRUE(Refused(objects, {"nest more than 64 deep"}));
}

TEST(JsonTest, SizesAboveTheLimitAreRefused) {
  EXPECT_TRUE(IsOk(Parse("[1, 2]", 6)));
  EXPECT_TRUE(Fails(Parse("[1, 22]", 6), StatusCode::kInvalidArgument,
                    {"a.json: has 7 bytes; at most 6 are expected"}));
}

TEST(JsonTest, TruncationAtEveryByteIsAnError) {
  const std::string whole = R"({"a": [1, -2.5e3, "x\u00e9"], "b": {"c": null, "d": false}})";
  ASSERT_TRUE(IsOk(Parse(whole)));
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_TRUE(Refused(std::string_view(whole).substr(0, size), {"a.json: is not JSON"})) << size;
  }
}

TEST(JsonTest, OpensAFile) {
  const std::string text = "{\"a\": 1}";
  const testing::TempFile file({text.begin(), text.end()});
  const auto document = JsonDocument::Open(file.path());
  ASSERT_TRUE(IsOk(document));
  EXPECT_EQ(*(*document)->root().Int("a"), 1);
  EXPECT_TRUE(Fails(JsonDocument::Open(file.path() + ".none"), StatusCode::kNotFound,
                    {file.path(), "check the path"}));
}

}  // namespace
}  // namespace penstock
