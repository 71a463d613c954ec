#include "frontend/result_check.h"

#include <gtest/gtest.h>

#include <cmath>

namespace penstock {
namespace {

// Row 0 feeds three tokens and samples position 3, row 1 samples nothing and has two targets. Two
// likeliest tokens are asked for beside a sample, one beside a target.
StepPlan Plan(uint64_t number) {
  StepPlan plan;
  plan.number = number;
  plan.epoch = 3;
  for (int32_t slot : {0, 1}) {
    PlanRow& row = plan.rows.emplace_back();
    row.slot = slot;
    row.generation = 5;
    row.tokens = {1, 2, 3};
    row.blocks = {slot};
    row.sample = slot == 0;
    if (slot == 1) row.targets = {2, 3};
    Admission& admission = plan.admissions.emplace_back();
    admission.slot = slot;
    admission.generation = 5;
    admission.sampling.logprobs = 2;
    admission.sampling.prompt_logprobs = slot == 1 ? 1 : -1;
  }
  return plan;
}

StepResult Result(const StepPlan& plan) {
  StepResult result;
  result.number = plan.number;
  result.epoch = plan.epoch;
  SampledToken& sample = result.samples.emplace_back();
  sample.slot = 0;
  sample.generation = 5;
  sample.position = 3;
  sample.token = 9;
  sample.top = {{9, -0.5f}, {0, -1.0f}};
  result.prompt_logprobs = {{1, 5, 1, {2, -1.0f}, {{4, -0.5f}}}, {1, 5, 2, {3, -2.0f}, {{3, -2}}}};
  return result;
}

// What the check says of plan 1's result, made from a good one.
absl::Status Spoiled(void (*spoil)(StepResult&)) {
  ResultCheck check;
  check.SetVocabulary(10);
  const StepPlan plan = Plan(1);
  StepResult result = Result(plan);
  spoil(result);
  return check.Check(plan, result);
}

using Spoil = void (*)(StepResult&);
class BadResultTest : public testing::TestWithParam<std::pair<const char*, Spoil>> {};

TEST_P(BadResultTest, IsAnInternalError) {
  const absl::Status status = Spoiled(GetParam().second);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(Message(status).find(GetParam().first), std::string::npos) << status;
}

INSTANTIATE_TEST_SUITE_P(
    All, BadResultTest,
    testing::Values(
        std::pair(
            "it is of plan 7", +[](StepResult& r) { r.number = 7; }),
        std::pair(
            "epoch 0", +[](StepResult& r) { r.epoch = 0; }),
        std::pair(
            "samples are missing", +[](StepResult& r) { r.samples.clear(); }),
        std::pair(
            "a second", +[](StepResult& r) { r.samples.push_back(r.samples[0]); }),
        std::pair(
            "unasked sample of slot 1", +[](StepResult& r) { r.samples[0].slot = 1; }),
        std::pair(
            "unasked sample of slot -1", +[](StepResult& r) { r.samples[0].slot = -1; }),
        std::pair(
            "generation 4", +[](StepResult& r) { r.samples[0].generation = 4; }),
        std::pair(
            "position 4", +[](StepResult& r) { r.samples[0].position = 4; }),
        std::pair(
            "token 10", +[](StepResult& r) { r.samples[0].token = 10; }),
        std::pair(
            "token -3", +[](StepResult& r) { r.samples[0].token = -3; }),
        std::pair(
            "not a number", +[](StepResult& r) { r.samples[0].logprob = NAN; }),
        std::pair(
            "2 likeliest tokens are told instead of 0",
            +[](StepResult& r) { r.samples[0].token = kNoToken; }),
        std::pair(
            "1 likeliest tokens are told instead of 2",
            +[](StepResult& r) { r.samples[0].top.pop_back(); }),
        std::pair(
            "token 10", +[](StepResult& r) { r.samples[0].top[1].token = 10; }),
        std::pair(
            "not a number", +[](StepResult& r) { r.samples[0].top[1].logprob = NAN; }),
        std::pair(
            "a prompt are missing", +[](StepResult& r) { r.prompt_logprobs.pop_back(); }),
        std::pair(
            "not asked for",
            +[](StepResult& r) { r.prompt_logprobs.push_back(r.prompt_logprobs[0]); }),
        std::pair(
            "token 7 of slot 1", +[](StepResult& r) { r.prompt_logprobs[1].token.token = 7; }),
        std::pair(
            "slot 0", +[](StepResult& r) { r.prompt_logprobs[1].slot = 0; }),
        std::pair(
            "generation 6", +[](StepResult& r) { r.prompt_logprobs[0].generation = 6; }),
        std::pair(
            "position 3", +[](StepResult& r) { r.prompt_logprobs[1].position = 3; }),
        std::pair(
            "0 likeliest tokens are told instead of 1",
            +[](StepResult& r) { r.prompt_logprobs[0].top.clear(); }),
        std::pair(
            "1 likeliest tokens are told instead of 0",
            +[](StepResult& r) { r.prompt_logprobs[0].token.token = kNoToken; }),
        std::pair(
            "is void and its sequence goes on",
            +[](StepResult& r) {
              r.samples[0].token = kVoidToken;
              r.samples[0].top.clear();
            }),
        std::pair(
            "2 likeliest tokens are told instead of 0",
            +[](StepResult& r) { r.samples[0].token = kVoidToken; })));

TEST(ResultCheck, AFailedRowIsAResult) {
  EXPECT_TRUE(Spoiled([](StepResult& r) {
                r.samples[0].token = kNoToken;
                r.samples[0].top.clear();
                r.prompt_logprobs[1].token.token = kNoToken;
                r.prompt_logprobs[1].top.clear();
              }).ok());
}

// The rows that had left before the token was known that ended their sequence.
TEST(ResultCheck, AfterTheEndOfASequenceSamplesMayBeVoid) {
  for (const int32_t end : {9, 8, kNoToken}) {
    ResultCheck check;
    check.SetVocabulary(10);
    StepPlan plan = Plan(1);
    plan.admissions[0].sampling.stop_ids = {7, 9};
    StepResult result = Result(plan);
    result.samples[0].token = end;
    if (end == kNoToken) result.samples[0].top.clear();
    ASSERT_TRUE(check.Check(plan, result).ok());

    StepPlan ahead;
    ahead.number = 2;
    ahead.epoch = plan.epoch;
    PlanRow& row = ahead.rows.emplace_back();
    row.slot = 0;
    row.generation = 5;
    row.position = 3;
    row.tokens = {kNoToken};
    row.token_from = 1;
    row.sample = true;
    StepResult answer;
    answer.number = 2;
    answer.epoch = plan.epoch;
    SampledToken& sample = answer.samples.emplace_back();
    sample.generation = 5;
    sample.position = 4;
    sample.token = kVoidToken;
    EXPECT_EQ(check.Check(ahead, answer).ok(), end != 8);
    // A new epoch knows nothing of the old slots.
    check.Clear();
    EXPECT_FALSE(check.Check(ahead, answer).ok());
  }
}

TEST(ResultCheck, OnlyTheLastStageSamples) {
  const StepPlan plan = Plan(1);
  StepResult result = Result(plan);
  EXPECT_NE(Message(ResultCheck::CheckDone(plan, result)).find("only the last stage samples"),
            std::string::npos);
  result.samples.clear();
  result.prompt_logprobs.clear();
  EXPECT_TRUE(ResultCheck::CheckDone(plan, result).ok());
  result.number = 2;
  EXPECT_FALSE(ResultCheck::CheckDone(plan, result).ok());
}

}  // namespace
}  // namespace penstock
