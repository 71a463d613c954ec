#include "frontend/generate_command.h"

#include <gtest/gtest.h>

#include <sstream>

#include "frontend/json_text.h"
#include "frontend/tokenize_command.h"
#include "tests/support/small_vocabulary.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

TEST(ParseTokenIdsTest, ReadsNumbersWithCommas) {
  EXPECT_EQ(ParseTokenIds("").value(), std::vector<int32_t>());
  EXPECT_EQ(ParseTokenIds("7").value(), (std::vector<int32_t>{7}));
  EXPECT_EQ(ParseTokenIds("1,2, 3,-4").value(), (std::vector<int32_t>{1, 2, 3, -4}));
}

TEST(ParseTokenIdsTest, NamesTheItemThatIsNone) {
  for (const auto& [text, item] : std::initializer_list<std::pair<const char*, const char*>>{
           {"1,x,3", "\"x\" (item 2)"},
           {"1,,3", "\"\" (item 2)"},
           {"1,2,", "\"\" (item 3)"},
           {"1 2", "\"1 2\" (item 1)"},
           {"1.5", "\"1.5\" (item 1)"},
           {"2147483648", "\"2147483648\" (item 1)"}}) {
    EXPECT_TRUE(Fails(ParseTokenIds(text), absl::StatusCode::kInvalidArgument, {item, "1,2,3"}));
  }
}

TEST(JsonTextTest, WritesOneObject) {
  EXPECT_EQ(GenerationToJson({{1, 2}, {3}, "a\"\n\xc3\xa9", "stop", {-0.5f}}),
            "{\"prompt_ids\":[1,2],\"ids\":[3],\"text\":\"a\\\"\\n\xc3\xa9\",\"finish_reason\":"
            "\"stop\",\"logprobs\":[-0.5]}");
}

TEST(TokenizeLinesTest, AnswersLineByLine) {
  const std::unique_ptr<Tokenizer> tokenizer = MakeTokenizer(SmallVocabulary()).value();
  const auto ids = [&](const char* text, bool special) {
    return IdsToJson(tokenizer->Encode(text, special).value()) + "\n";
  };
  for (const bool special : {false, true}) {
    std::istringstream in("\"hello\"\n\"\"\n\"<|end|>\\u00e9\"\r\n \"a\\nb\" ");
    std::ostringstream out;
    EXPECT_TRUE(IsOk(TokenizeLines(*tokenizer, special, in, out)));
    EXPECT_EQ(out.str(), ids("hello", special) + "[]\n" + ids("<|end|>\xc3\xa9", special) +
                             ids("a\nb", special));
  }
}

TEST(TokenizeLinesTest, NamesTheLineThatIsNoString) {
  const std::unique_ptr<Tokenizer> tokenizer = MakeTokenizer(SmallVocabulary()).value();
  for (const char* line : {"hello", "", "5", "null", "[\"a\"]", "\"a\" \"b\"", "\"a", "\"\xff\"",
                           "\"\\ud800\"", "{\"a\":1}"}) {
    std::istringstream in(std::string("\"a\"\n") + line + "\n\"b\"\n");
    std::ostringstream out;
    EXPECT_TRUE(Fails(TokenizeLines(*tokenizer, false, in, out), absl::StatusCode::kInvalidArgument,
                      {"line 2"}))
        << line;
    EXPECT_EQ(out.str(), IdsToJson(tokenizer->Encode("a", false).value()) + "\n");
  }
}

}  // namespace
}  // namespace penstock
