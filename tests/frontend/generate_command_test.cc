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

TEST(ParseLogitBiasTest, ReadsAnIdAndANumber) {
  const auto bias = ParseLogitBias("42=-1.5");
  ASSERT_TRUE(IsOk(bias));
  EXPECT_EQ(bias->token, 42);
  EXPECT_EQ(bias->bias, -1.5f);
  for (const char* text : {"", "42", "=1", "42=", "x=1", "1=2=3", "1=x", "99999999999=1"}) {
    EXPECT_TRUE(Fails(ParseLogitBias(text), absl::StatusCode::kInvalidArgument,
                      {absl::StrCat("\"", text, "\""), "42=-1.5"}));
  }
}

Choice SmallChoice() {
  Choice choice;
  choice.ids = {3};
  choice.text = "a\"\n\xc3\xa9";
  choice.finish_reason = "stop";
  choice.logprobs = {-0.5f};
  return choice;
}

TEST(JsonTextTest, WritesOneObject) {
  Generation generation;
  generation.prompt_ids = {1, 2};
  generation.choices = {SmallChoice()};
  EXPECT_EQ(GenerationToJson(generation),
            "{\"prompt_ids\":[1,2],\"ids\":[3],\"text\":\"a\\\"\\n\xc3\xa9\",\"finish_reason\":"
            "\"stop\",\"logprobs\":[-0.5]}");
}

TEST(JsonTextTest, WritesWhatWasAskedForBeside) {
  Generation generation;
  generation.prompt_ids = {1, 2};
  generation.prompt_logprobs = {{{2, -1.0f}, {{7, -0.5f}}}};
  generation.choices = {SmallChoice(), SmallChoice()};
  generation.choices[0].top_logprobs = {{{3, -0.5f}, {4, -2.0f}}};
  generation.choices[0].stop_text = ".";
  generation.choices[1].stop_id = 9;
  generation.choices[1].error = "lost";
  const std::string text = GenerationToJson(generation);
  for (const char* part :
       {"\"prompt_logprobs\":[{\"id\":2,\"logprob\":-1.0,\"top\":[{\"id\":7,\"logprob\":-0.5}]}]",
        "\"choices\":[{\"ids\":[3]", "\"top_logprobs\":[[{\"id\":3,\"logprob\":-0.5},{\"id\":4",
        "\"stop_text\":\".\"", "\"stop_id\":9", "\"error\":\"lost\""}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in " << text;
  }
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
