#include "worker/plan_check.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string_view>

#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

constexpr PlanLimits kLimits{/*max_tokens=*/32, /*max_sequences=*/4, /*context_length=*/256,
                             /*num_blocks=*/8, /*vocab_size=*/100};

// A plan that uses everything, at its bounds.
StepPlan FullPlan() {
  StepPlan plan;
  plan.number = 8;
  Admission& admission = plan.admissions.emplace_back();
  admission.slot = 3;
  admission.generation = 1;
  admission.prompt_tokens = 3;
  admission.history = {0, 99, 5, 7};
  SamplingParams& sampling = admission.sampling;
  sampling.repetition_penalty = 1.2f;
  sampling.logit_bias = {{0, -100.0f}, {99, 100.0f}};
  sampling.stop_ids = {0, 99};
  sampling.bad_words = {{99}, {0, 1, 2}};
  sampling.min_tokens = 4;
  sampling.logprobs = kMaxLogprobs;
  sampling.prompt_logprobs = kMaxLogprobs;
  PlanRow& row = plan.rows.emplace_back();
  row.slot = 3;
  row.generation = 1;
  row.tokens = {0, 99, 5, 7};
  row.blocks = {7};
  row.sample = true;
  row.targets = {99, 5, 7};
  return plan;
}

TEST(PlanCheck, LetsAFullPlanThrough) { EXPECT_TRUE(IsOk(CheckPlan(FullPlan(), kLimits))); }

TEST(PlanCheck, RefusesEveryNumberOutOfItsBounds) {
  struct Case {
    std::string_view words;
    std::function<void(StepPlan&)> spoil;
  };
  const auto sampling = [](auto set) {
    return [set](StepPlan& plan) { set(plan.admissions[0].sampling); };
  };
  const auto admission = [](auto set) {
    return [set](StepPlan& plan) { set(plan.admissions[0]); };
  };
  const auto row = [](auto set) { return [set](StepPlan& plan) { set(plan.rows[0]); }; };
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Case cases[] = {
      {"slot -1 of 4", admission([](Admission& a) { a.slot = -1; })},
      {"slot 4 of 4", admission([](Admission& a) { a.slot = 4; })},
      {"prompt_tokens -1", admission([](Admission& a) { a.prompt_tokens = -1; })},
      {"prompt_tokens 257", admission([](Admission& a) { a.prompt_tokens = 257; })},
      {"a history of 4", admission([](Admission& a) { a.prompt_tokens = 5; })},
      {"a history of 0", admission([](Admission& a) { a.history.clear(); })},
      {"a history of 257", admission([](Admission& a) { a.history.assign(257, 1); })},
      {"in its history token 100", admission([](Admission& a) { a.history[2] = 100; })},
      {"in its history token -1", admission([](Admission& a) { a.history[0] = -1; })},
      {"does not need", admission([](Admission& a) { a.sampling = SamplingParams(); })},
      {"logprobs -1", sampling([](SamplingParams& s) { s.logprobs = -1; })},
      {"logprobs 101", sampling([](SamplingParams& s) { s.logprobs = kMaxLogprobs + 1; })},
      {"prompt_logprobs -2", sampling([](SamplingParams& s) { s.prompt_logprobs = -2; })},
      {"prompt_logprobs 101",
       sampling([](SamplingParams& s) { s.prompt_logprobs = kMaxLogprobs + 1; })},
      {"temperature", sampling([](SamplingParams& s) { s.temperature = NAN; })},
      {"temperature", sampling([](SamplingParams& s) { s.temperature = -0.1f; })},
      {"temperature", sampling([](SamplingParams& s) { s.temperature = INFINITY; })},
      {"top_p", sampling([](SamplingParams& s) { s.top_p = 0; })},
      {"top_p", sampling([](SamplingParams& s) { s.top_p = NAN; })},
      {"top_p", sampling([](SamplingParams& s) { s.top_p = 1.1f; })},
      {"top_k", sampling([](SamplingParams& s) { s.top_k = -1; })},
      {"min_p", sampling([](SamplingParams& s) { s.min_p = -0.1f; })},
      {"min_p", sampling([](SamplingParams& s) { s.min_p = NAN; })},
      {"min_p", sampling([](SamplingParams& s) { s.min_p = 1.1f; })},
      {"repetition_penalty", sampling([](SamplingParams& s) { s.repetition_penalty = 0; })},
      {"repetition_penalty", sampling([](SamplingParams& s) { s.repetition_penalty = NAN; })},
      {"presence_penalty", sampling([](SamplingParams& s) { s.presence_penalty = kInfinity; })},
      {"frequency_penalty", sampling([](SamplingParams& s) { s.frequency_penalty = -kInfinity; })},
      {"logit_bias of token 100", sampling([](SamplingParams& s) { s.logit_bias[1].token = 100; })},
      {"logit_bias of token -1", sampling([](SamplingParams& s) { s.logit_bias[0].token = -1; })},
      {"logit_bias of nan", sampling([](SamplingParams& s) { s.logit_bias[0].bias = NAN; })},
      {"not sorted", sampling([](SamplingParams& s) { s.logit_bias[1].token = 0; })},
      {"stop id token 100", sampling([](SamplingParams& s) { s.stop_ids[1] = 100; })},
      {"not sorted", sampling([](SamplingParams& s) {
         s.stop_ids = {5, 4};
       })},
      {"without tokens", sampling([](SamplingParams& s) { s.bad_words[0].clear(); })},
      {"bad word token 100", sampling([](SamplingParams& s) { s.bad_words[1][2] = 100; })},
      {"bad word token -1", sampling([](SamplingParams& s) { s.bad_words[1][0] = -1; })},
      {"min_tokens -1", sampling([](SamplingParams& s) { s.min_tokens = -1; })},
      {"choice -1", sampling([](SamplingParams& s) { s.choice = -1; })},
      {"of plan 7 and others beside it", row([](PlanRow& r) { r.token_from = 7; })},
      {"of plan 7 and others beside it", row([](PlanRow& r) {
         r.token_from = 7;
         r.tokens = {kNoToken, kNoToken};
       })},
      {"in its place", row([](PlanRow& r) {
         r.token_from = 7;
         r.tokens = {0};
       })},
      {"and has targets", row([](PlanRow& r) {
         r.token_from = 7;
         r.tokens = {kNoToken};
         r.targets = {0};
       })},
      {"is of plan 8", row([](PlanRow& r) {
         r.token_from = 8;
         r.tokens = {kNoToken};
         r.targets.clear();
       })},
      {"feeds token -1", row([](PlanRow& r) { r.tokens[0] = kNoToken; })},
      {"1 targets for 4 tokens", row([](PlanRow& r) { r.targets.resize(1); })},
      {"5 targets for 4 tokens", row([](PlanRow& r) { r.targets.resize(5); })},
      {"target token 100", row([](PlanRow& r) { r.targets[0] = 100; })},
      {"target token -1", row([](PlanRow& r) { r.targets[2] = -1; })},
  };
  for (const Case& one : cases) {
    StepPlan plan = FullPlan();
    one.spoil(plan);
    EXPECT_TRUE(
        Fails(CheckPlan(plan, kLimits), absl::StatusCode::kFailedPrecondition, {one.words}));
  }
}

// A row that feeds what an earlier plan samples.
StepPlan PlanFrom(uint64_t number, uint64_t token_from) {
  StepPlan plan = FullPlan();
  plan.number = number;
  plan.epoch = 3;
  plan.rows[0].token_from = token_from;
  plan.rows[0].tokens = {kNoToken};
  plan.rows[0].targets.clear();
  return plan;
}

TEST(PlanCheck, LetsARowThroughThatFeedsAnEarlierPlansToken) {
  EXPECT_TRUE(IsOk(CheckPlan(PlanFrom(8, 7), kLimits)));
}

TEST(PlanCheck, MasksAndDraftsAreNotBuiltYet) {
  for (const bool mask : {false, true}) {
    StepPlan plan = FullPlan();
    (mask ? plan.rows[0].mask : plan.rows[0].num_drafts) = 1;
    EXPECT_TRUE(
        Fails(CheckPlan(plan, kLimits), absl::StatusCode::kUnimplemented, {"of one version"}));
  }
}

TEST(PlanOrder, PlansOfAnEpochComeWithoutAGap) {
  const auto plan = [](uint32_t epoch, uint64_t number) {
    StepPlan made;
    made.epoch = epoch;
    made.number = number;
    return made;
  };
  const auto refused = absl::StatusCode::kFailedPrecondition;
  PlanOrder order(3, 10, 2);
  EXPECT_TRUE(Fails(order.Take(plan(3, 9)), refused, {"plan 9", "plan 10 is expected"}));
  EXPECT_TRUE(Fails(order.Take(plan(3, 11)), refused, {"plan 10 is expected"}));
  EXPECT_TRUE(IsOk(order.Take(plan(3, 10))));
  EXPECT_TRUE(Fails(order.Take(plan(3, 10)), refused, {"plan 11 is expected"}));
  EXPECT_TRUE(Fails(order.Take(plan(2, 11)), refused, {"epoch 2", "epoch 3"}));
  EXPECT_TRUE(Fails(order.Take(plan(4, 11)), refused, {"epoch 4", "epoch 3"}));
  EXPECT_TRUE(IsOk(order.Take(plan(3, 11))));
}

TEST(PlanOrder, TokensComeFromPlansThatAreKept) {
  const auto refused = absl::StatusCode::kFailedPrecondition;
  PlanOrder order(3, 10, 2);
  EXPECT_TRUE(Fails(order.Take(PlanFrom(10, 9)), refused, {"plan 9", "began with plan 10"}));
  EXPECT_TRUE(Fails(order.Take(PlanFrom(10, 10)), refused, {"plan 10"}));
  EXPECT_TRUE(IsOk(order.Take(PlanFrom(10, 0))));
  EXPECT_TRUE(IsOk(order.Take(PlanFrom(11, 10))));
  EXPECT_TRUE(IsOk(order.Take(PlanFrom(12, 10))));
  EXPECT_TRUE(Fails(order.Take(PlanFrom(13, 10)), refused, {"plan 10", "of 2 plans"}));
  EXPECT_TRUE(IsOk(order.Take(PlanFrom(13, 11))));
}

}  // namespace
}  // namespace penstock
