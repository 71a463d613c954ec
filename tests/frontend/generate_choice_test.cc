#include "frontend/generate_choice.h"

#include <gtest/gtest.h>

#include <memory>

#include "tests/support/small_vocabulary.h"

namespace penstock {
namespace {

class GenerateChoiceTest : public testing::Test {
 protected:
  GenerateChoiceTest() : tokenizer_(MakeTokenizer(SmallVocabulary()).value()) {
    request_.generation.sampling.stop_ids = {0, 1};
  }
  static std::vector<GeneratedToken> Tokens(size_t count, int32_t top = 0) {
    GeneratedToken token{40, -0.5f, {}};
    for (int32_t i = 0; i < top; ++i) token.top.push_back({i, -1.0f});
    return std::vector<GeneratedToken>(count, token);
  }

  const std::unique_ptr<Tokenizer> tokenizer_;
  CheckedRequest request_;
};

TEST_F(GenerateChoiceTest, TheEndComesWithTheLastTokens) {
  request_.tell_logprobs = true;
  GenerateChoice choice(*tokenizer_, request_, 3);
  EXPECT_FALSE(choice.HasWork());
  choice.AddTokens(Tokens(2));
  choice.End(FinishReason::kLength, absl::OkStatus());
  v1::GenerateResponse response;
  choice.Write(choice.Take(), &response);
  EXPECT_TRUE(choice.done());
  EXPECT_EQ(response.choice(), 3);
  EXPECT_EQ(response.ids_size(), 2);
  EXPECT_EQ(response.logprobs_size(), 2);
  EXPECT_EQ(response.top_logprobs_size(), 0);
  EXPECT_EQ(response.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(response.stopped_by_case(), v1::GenerateResponse::STOPPED_BY_NOT_SET);
  EXPECT_TRUE(response.error().empty());
}

TEST_F(GenerateChoiceTest, AnErrorIsTold) {
  GenerateChoice choice(*tokenizer_, request_, 0);
  choice.End(FinishReason::kError, absl::InternalError("no numbers"));
  v1::GenerateResponse response;
  choice.Write(choice.Take(), &response);
  EXPECT_EQ(response.finish_reason(), v1::FINISH_REASON_ERROR);
  EXPECT_EQ(response.error(), "no numbers");
  EXPECT_EQ(choice.status().code(), absl::StatusCode::kInternal);
}

TEST_F(GenerateChoiceTest, WhatNobodyWillSendIsThrownAway) {
  GenerateChoice choice(*tokenizer_, request_, 0);
  choice.AddPrompt(std::vector<PromptLogprob>(3));
  choice.AddTokens(Tokens(3, 2));
  choice.Discard();
  EXPECT_EQ(choice.buffered_bytes(), 0);
  EXPECT_FALSE(choice.HasWork());
}

TEST_F(GenerateChoiceTest, NoMessagePassesItsLimit) {
  request_.tell_logprobs = true;
  request_.generation.sampling.logprobs = 20;
  request_.generation.sampling.prompt_logprobs = 3;
  GenerateChoice choice(*tokenizer_, request_, 0);
  const int64_t prompt = 50000, tokens = 10000;
  for (int64_t i = 0; i < prompt; ++i) {
    PromptLogprob logprob;
    logprob.position = i + 1;
    logprob.token = {7, -2.0f};
    logprob.top.assign(3, {8, -1.0f});
    choice.AddPrompt({&logprob, 1});
  }
  EXPECT_FALSE(choice.prompt_told());
  choice.AddTokens(Tokens(tokens, 20));
  choice.End(FinishReason::kLength, absl::OkStatus());
  const auto waiting =
      static_cast<int64_t>(prompt * (sizeof(PromptLogprob) + 3 * sizeof(TokenLogprob)) +
                           tokens * (sizeof(GeneratedToken) + 20 * sizeof(TokenLogprob)));
  EXPECT_EQ(choice.buffered_bytes(), waiting);
  int64_t prompt_told = 0, tokens_told = 0, messages = 0;
  for (; choice.HasWork() && !choice.done(); ++messages) {
    v1::GenerateResponse response;
    choice.Write(choice.Take(), &response);
    EXPECT_LT(response.ByteSizeLong(), 2u << 20);
    prompt_told += response.prompt_logprobs_size();
    tokens_told += response.ids_size();
    EXPECT_EQ(response.top_logprobs_size(), response.ids_size());
    // All of the prompt before any ids.
    EXPECT_TRUE(response.ids_size() == 0 || prompt_told == prompt);
    if (response.prompt_logprobs_size() > 0) {
      EXPECT_EQ(response.prompt_logprobs(0).top_size(), 3);
    }
  }
  EXPECT_EQ(prompt_told, prompt);
  EXPECT_EQ(tokens_told, tokens);
  EXPECT_EQ(messages, 4 + 4);
  EXPECT_EQ(choice.buffered_bytes(), 0);
  EXPECT_TRUE(choice.done());
}

}  // namespace
}  // namespace penstock
