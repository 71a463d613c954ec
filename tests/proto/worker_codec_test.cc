#include "proto/worker_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/support/status_matchers.h"
#include "tests/support/unset_fields.h"

namespace penstock {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// Every field has a value of its own, none its default.
StepPlan ExamplePlan() {
  StepPlan plan;
  plan.number = std::numeric_limits<uint64_t>::max();
  plan.epoch = std::numeric_limits<uint32_t>::max();
  plan.limit_ns = std::numeric_limits<int64_t>::max();
  Admission& admission = plan.admissions.emplace_back();
  admission.slot = 3;
  admission.generation = 7;
  admission.prompt_tokens = 2;
  admission.history = {0, 49151, 6};
  SamplingParams& sampling = admission.sampling;
  sampling.temperature = 0.5f;
  sampling.top_k = 40;
  sampling.top_p = 0.9f;
  sampling.min_p = 0.125f;
  sampling.repetition_penalty = 1.5f;
  sampling.presence_penalty = -0.75f;
  sampling.frequency_penalty = 0.25f;
  sampling.logit_bias = {{0, -100.0f}, {49151, 2.5f}};
  sampling.stop_ids = {0, 2, 49151};
  sampling.min_tokens = 11;
  sampling.bad_words = {{1, 2, 3}, {49151}};
  sampling.logprobs = 5;
  sampling.prompt_logprobs = 6;
  sampling.seed = ~uint64_t{0};
  sampling.choice = 2;
  PlanRow row;
  row.slot = 3;
  row.generation = 7;
  row.position = 64;
  row.tokens = {1, 0, 49151};
  row.blocks = {5, 0};
  row.sample = true;
  row.targets = {0, 49151};
  row.num_drafts = 2;
  row.mask = 4;
  plan.rows.push_back(row);
  // Fed with what an earlier plan samples.
  PlanRow ahead;
  ahead.tokens = {kNoToken};
  ahead.blocks = {1};
  ahead.token_from = std::numeric_limits<uint64_t>::max() - 1;
  plan.rows.push_back(ahead);
  return plan;
}

StepResult ExampleResult() {
  StepResult result;
  result.number = 9;
  result.epoch = 2;
  result.times = {1, 123, 2, 3, 4};
  result.samples = {{1, 4, 77, 50, -0.5f, {{50, -0.5f}, {0, -1.5f}}},
                    {2, 1, 3, 6, -INFINITY, {}},
                    {5, 1, 3, kNoToken, 0.0f, {}},
                    {6, 1, 4, kVoidToken, 0.0f, {}}};
  result.prompt_logprobs = {{1, 4, 5, {9, -2.0f}, {{8, -0.25f}, {9, -2.0f}}},
                            {2, 1, 6, {kNoToken, 0.0f}, {}}};
  return result;
}

TEST(WorkerCodecTest, PlanComesBack) {
  const StepPlan plan = ExamplePlan();
  worker::v1::StepPlan message;
  EncodeStepPlan(plan, &message);
  // The first of two biases is of token 0, the first of two rows is not fed by a plan.
  EXPECT_EQ(UnsetFields(message),
            (std::vector<std::string>{"penstock.worker.v1.LogitBias.token",
                                      "penstock.worker.v1.PlanRow.token_from"}));
  EXPECT_EQ(message.rows(1).token_from(), plan.rows[1].token_from);
  worker::v1::StepPlan received;
  ASSERT_TRUE(received.ParseFromString(message.SerializeAsString()));
  const absl::StatusOr<StepPlan> decoded = DecodeStepPlan(received);
  ASSERT_TRUE(IsOk(decoded));
  EXPECT_EQ(decoded->number, plan.number);
  EXPECT_EQ(decoded->epoch, plan.epoch);
  EXPECT_EQ(decoded->limit_ns, plan.limit_ns);
  ASSERT_EQ(decoded->admissions.size(), 1u);
  const Admission& admission = decoded->admissions[0];
  EXPECT_EQ(admission.slot, 3);
  EXPECT_EQ(admission.generation, 7u);
  EXPECT_EQ(admission.prompt_tokens, 2);
  EXPECT_EQ(admission.history, plan.admissions[0].history);
  const SamplingParams& sampling = admission.sampling;
  EXPECT_EQ(sampling.temperature, 0.5f);
  EXPECT_EQ(sampling.top_k, 40);
  EXPECT_EQ(sampling.top_p, 0.9f);
  EXPECT_EQ(sampling.min_p, 0.125f);
  EXPECT_EQ(sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(sampling.presence_penalty, -0.75f);
  EXPECT_EQ(sampling.frequency_penalty, 0.25f);
  ASSERT_EQ(sampling.logit_bias.size(), 2u);
  EXPECT_EQ(sampling.logit_bias[0].token, 0);
  EXPECT_EQ(sampling.logit_bias[0].bias, -100.0f);
  EXPECT_EQ(sampling.logit_bias[1].token, 49151);
  EXPECT_EQ(sampling.logit_bias[1].bias, 2.5f);
  EXPECT_EQ(sampling.stop_ids, (std::vector<int32_t>{0, 2, 49151}));
  EXPECT_EQ(sampling.min_tokens, 11);
  EXPECT_EQ(sampling.bad_words, (std::vector<std::vector<int32_t>>{{1, 2, 3}, {49151}}));
  EXPECT_EQ(sampling.logprobs, 5);
  EXPECT_EQ(sampling.prompt_logprobs, 6);
  EXPECT_EQ(sampling.seed, ~uint64_t{0});
  EXPECT_EQ(sampling.choice, 2);
  ASSERT_EQ(decoded->rows.size(), 2u);
  EXPECT_EQ(decoded->rows[0].slot, 3);
  EXPECT_EQ(decoded->rows[0].generation, 7u);
  EXPECT_EQ(decoded->rows[0].position, 64);
  EXPECT_EQ(decoded->rows[0].tokens, plan.rows[0].tokens);
  EXPECT_EQ(decoded->rows[0].blocks, plan.rows[0].blocks);
  EXPECT_TRUE(decoded->rows[0].sample);
  EXPECT_EQ(decoded->rows[0].targets, plan.rows[0].targets);
  EXPECT_EQ(decoded->rows[0].token_from, 0u);
  EXPECT_EQ(decoded->rows[0].mask, 4);
  EXPECT_EQ(decoded->rows[0].num_drafts, 2);
  EXPECT_EQ(decoded->rows[1].tokens, std::vector<int32_t>{kNoToken});
  EXPECT_EQ(decoded->rows[1].token_from, plan.rows[1].token_from);
  EXPECT_EQ(decoded->rows[1].mask, -1);
}

TEST(WorkerCodecTest, ResultComesBack) {
  const StepResult result = ExampleResult();
  worker::v1::StepResult message;
  EncodeStepResult(result, &message);
  EXPECT_EQ(UnsetFields(message), std::vector<std::string>());
  worker::v1::StepResult received;
  ASSERT_TRUE(received.ParseFromString(message.SerializeAsString()));
  const absl::StatusOr<StepResult> decoded = DecodeStepResult(received);
  ASSERT_TRUE(IsOk(decoded));
  EXPECT_EQ(decoded->number, 9u);
  EXPECT_EQ(decoded->epoch, 2u);
  EXPECT_EQ(decoded->times.start_ns, 1);
  EXPECT_EQ(decoded->times.compute_ns, 123);
  EXPECT_EQ(decoded->times.wait_plan_ns, 2);
  EXPECT_EQ(decoded->times.wait_input_ns, 3);
  EXPECT_EQ(decoded->times.send_ns, 4);
  ASSERT_EQ(decoded->samples.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(decoded->samples[i].slot, result.samples[i].slot);
    EXPECT_EQ(decoded->samples[i].generation, result.samples[i].generation);
    EXPECT_EQ(decoded->samples[i].position, result.samples[i].position);
    EXPECT_EQ(decoded->samples[i].token, result.samples[i].token);
    EXPECT_EQ(decoded->samples[i].logprob, result.samples[i].logprob);
    EXPECT_EQ(decoded->samples[i].top, result.samples[i].top);
  }
  ASSERT_EQ(decoded->prompt_logprobs.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(decoded->prompt_logprobs[i].slot, result.prompt_logprobs[i].slot);
    EXPECT_EQ(decoded->prompt_logprobs[i].generation, result.prompt_logprobs[i].generation);
    EXPECT_EQ(decoded->prompt_logprobs[i].position, result.prompt_logprobs[i].position);
    EXPECT_EQ(decoded->prompt_logprobs[i].token, result.prompt_logprobs[i].token);
    EXPECT_EQ(decoded->prompt_logprobs[i].top, result.prompt_logprobs[i].top);
  }
}

TEST(WorkerCodecTest, RefusesMalformedPlans) {
  struct Case {
    const char* field;
    std::function<void(worker::v1::StepPlan*)> spoil;
  };
  using Plan = worker::v1::StepPlan;
  const auto sampling = [](Plan* plan) { return plan->mutable_admissions(0)->mutable_sampling(); };
  const Case cases[] = {
      {"Admission.slot", [](Plan* plan) { plan->mutable_admissions(0)->set_slot(-1); }},
      {"SamplingParams.temperature", [&](Plan* plan) { sampling(plan)->set_temperature(-0.1f); }},
      {"SamplingParams.temperature", [&](Plan* plan) { sampling(plan)->set_temperature(NAN); }},
      {"SamplingParams.temperature",
       [&](Plan* plan) { sampling(plan)->set_temperature(INFINITY); }},
      {"SamplingParams.top_k", [&](Plan* plan) { sampling(plan)->set_top_k(-1); }},
      {"SamplingParams.top_p", [&](Plan* plan) { sampling(plan)->set_top_p(0.0f); }},
      {"SamplingParams.top_p", [&](Plan* plan) { sampling(plan)->set_top_p(1.1f); }},
      {"SamplingParams.min_p", [&](Plan* plan) { sampling(plan)->set_min_p(-0.1f); }},
      {"SamplingParams.min_p", [&](Plan* plan) { sampling(plan)->set_min_p(NAN); }},
      {"SamplingParams.repetition_penalty",
       [&](Plan* plan) { sampling(plan)->set_repetition_penalty(0.0f); }},
      {"SamplingParams.repetition_penalty",
       [&](Plan* plan) { sampling(plan)->set_repetition_penalty(INFINITY); }},
      {"SamplingParams.presence_penalty",
       [&](Plan* plan) { sampling(plan)->set_presence_penalty(NAN); }},
      {"SamplingParams.frequency_penalty",
       [&](Plan* plan) { sampling(plan)->set_frequency_penalty(-INFINITY); }},
      {"SamplingParams.logit_bias.token",
       [&](Plan* plan) { sampling(plan)->mutable_logit_bias(1)->set_token(-1); }},
      {"SamplingParams.logit_bias.bias",
       [&](Plan* plan) { sampling(plan)->mutable_logit_bias(1)->set_bias(NAN); }},
      {"SamplingParams.stop_ids", [&](Plan* plan) { sampling(plan)->set_stop_ids(0, -1); }},
      {"SamplingParams.min_tokens", [&](Plan* plan) { sampling(plan)->set_min_tokens(-1); }},
      {"SamplingParams.bad_words.size",
       [&](Plan* plan) { sampling(plan)->mutable_bad_words(0)->clear_tokens(); }},
      {"SamplingParams.bad_words",
       [&](Plan* plan) { sampling(plan)->mutable_bad_words(0)->set_tokens(1, -1); }},
      {"SamplingParams.logprobs", [&](Plan* plan) { sampling(plan)->set_logprobs(-1); }},
      {"SamplingParams.prompt_logprobs",
       [&](Plan* plan) { sampling(plan)->set_prompt_logprobs(-2); }},
      {"Admission.prompt_tokens",
       [](Plan* plan) { plan->mutable_admissions(0)->set_prompt_tokens(-1); }},
      {"Admission.history", [](Plan* plan) { plan->mutable_admissions(0)->set_history(0, -1); }},
      {"PlanRow.targets.size",
       [](Plan* plan) {
         plan->mutable_rows(0)->add_targets(1);
         plan->mutable_rows(0)->add_targets(1);
       }},
      {"PlanRow.targets", [](Plan* plan) { plan->mutable_rows(0)->set_targets(0, -1); }},
      {"SamplingParams.choice", [&](Plan* plan) { sampling(plan)->set_choice(-1); }},
      {"PlanRow.slot", [](Plan* plan) { plan->mutable_rows(0)->set_slot(INT32_MAX); }},
      {"PlanRow.position", [](Plan* plan) { plan->mutable_rows(0)->set_position(-1); }},
      {"PlanRow.position", [](Plan* plan) { plan->mutable_rows(0)->set_position(INT64_MAX); }},
      {"PlanRow.tokens.size", [](Plan* plan) { plan->mutable_rows(0)->clear_tokens(); }},
      {"PlanRow.tokens", [](Plan* plan) { plan->mutable_rows(0)->set_tokens(1, -1); }},
      {"PlanRow.blocks", [](Plan* plan) { plan->mutable_rows(0)->set_blocks(0, -5); }},
      {"PlanRow.tokens", [](Plan* plan) { plan->mutable_rows(1)->set_tokens(0, 1); }},
      {"PlanRow.tokens", [](Plan* plan) { plan->mutable_rows(0)->set_tokens(0, kNoToken); }},
      {"PlanRow.tokens.size", [](Plan* plan) { plan->mutable_rows(1)->add_tokens(kNoToken); }},
      {"PlanRow.mask", [](Plan* plan) { plan->mutable_rows(0)->set_mask(-1); }},
      {"PlanRow.num_drafts", [](Plan* plan) { plan->mutable_rows(0)->set_num_drafts(4); }},
      {"PlanRow.num_drafts", [](Plan* plan) { plan->mutable_rows(0)->set_num_drafts(-1); }},
      {"StepPlan.limit_ns", [](Plan* plan) { plan->set_limit_ns(-1); }},
      {"StepPlan.tokens",
       [](Plan* plan) {
         plan->mutable_rows(0)->mutable_tokens()->Resize(1 << 20, 1);
         *plan->add_rows() = plan->rows(0);
       }},
  };
  for (const Case& one : cases) {
    worker::v1::StepPlan message;
    EncodeStepPlan(ExamplePlan(), &message);
    one.spoil(&message);
    EXPECT_TRUE(Fails(DecodeStepPlan(message), kInvalid, {one.field}));
  }
}

TEST(WorkerCodecTest, RefusesMalformedResults) {
  const auto result = [](int32_t slot, int64_t position, int32_t token, float logprob) {
    worker::v1::StepResult message;
    worker::v1::SampledToken* sample = message.add_samples();
    sample->set_slot(slot);
    sample->set_position(position);
    sample->set_token(token);
    sample->set_logprob(logprob);
    return DecodeStepResult(message);
  };
  EXPECT_TRUE(IsOk(result(0, 0, 0, 0.0f)));
  EXPECT_TRUE(Fails(result(-1, 0, 0, 0.0f), kInvalid, {"slot"}));
  EXPECT_TRUE(Fails(result(0, -1, 0, 0.0f), kInvalid, {"position"}));
  EXPECT_TRUE(Fails(result(0, 0, -3, 0.0f), kInvalid, {"token"}));
  EXPECT_TRUE(Fails(result(0, 0, 0, NAN), kInvalid, {"logprob"}));
  EXPECT_TRUE(Fails(result(0, 0, 0, 1.0f), kInvalid, {"logprob"}));

  using Result = worker::v1::StepResult;
  const auto spoiled = [](const std::function<void(Result*)>& spoil) {
    Result message;
    EncodeStepResult(ExampleResult(), &message);
    spoil(&message);
    return DecodeStepResult(message);
  };
  EXPECT_TRUE(Fails(spoiled([](Result* m) { m->set_start_ns(-1); }), kInvalid, {"start_ns"}));
  EXPECT_TRUE(Fails(spoiled([](Result* m) { m->set_compute_ns(-1); }), kInvalid, {"compute_ns"}));
  EXPECT_TRUE(Fails(spoiled([](Result* m) { m->set_wait_plan_ns(-1); }), kInvalid, {"wait_plan"}));
  EXPECT_TRUE(
      Fails(spoiled([](Result* m) { m->set_wait_input_ns(-1); }), kInvalid, {"wait_input"}));
  EXPECT_TRUE(Fails(spoiled([](Result* m) { m->set_send_ns(-1); }), kInvalid, {"send_ns"}));
  const auto top = [](Result* m) { return m->mutable_samples(0)->mutable_top(0); };
  const auto prompt = [](Result* m) { return m->mutable_prompt_logprobs(0); };
  EXPECT_TRUE(Fails(spoiled([&](Result* m) { top(m)->set_token(-1); }), kInvalid, {"top.token"}));
  EXPECT_TRUE(
      Fails(spoiled([&](Result* m) { top(m)->set_logprob(NAN); }), kInvalid, {"top.logprob"}));
  EXPECT_TRUE(Fails(spoiled([&](Result* m) { prompt(m)->set_slot(-1); }), kInvalid, {"slot"}));
  EXPECT_TRUE(
      Fails(spoiled([&](Result* m) { prompt(m)->set_position(0); }), kInvalid, {"position"}));
  EXPECT_TRUE(Fails(spoiled([&](Result* m) { prompt(m)->mutable_token()->set_token(-2); }),
                    kInvalid, {"token"}));
  EXPECT_TRUE(Fails(spoiled([&](Result* m) { prompt(m)->mutable_token()->set_logprob(0.1f); }),
                    kInvalid, {"logprob"}));
}

}  // namespace
}  // namespace penstock
