#include "proto/worker_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/support/fake_executor.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

StepPlan ExamplePlan() {
  StepPlan plan;
  plan.number = std::numeric_limits<uint64_t>::max();
  plan.epoch = std::numeric_limits<uint32_t>::max();
  Admission& admission = plan.admissions.emplace_back();
  admission.slot = 3;
  admission.generation = 7;
  admission.sampling.temperature = 0.5f;
  admission.sampling.top_k = 40;
  admission.sampling.top_p = 0.9f;
  admission.sampling.seed = ~uint64_t{0};
  admission.sampling.choice = 2;
  PlanRow row;
  row.slot = 3;
  row.generation = 7;
  row.position = 64;
  row.tokens = {1, 0, 49151};
  row.blocks = {5, 0};
  row.sample = true;
  plan.rows.push_back(row);
  return plan;
}

TEST(WorkerCodecTest, StageOptionsComeBack) {
  StageOptions options;
  options.model = "/models/not UTF-8 \xff.gguf";
  options.kv_memory_bytes = int64_t{1} << 40;
  options.max_step_tokens = 17;
  options.max_sequences = 5;
  options.threads = 3;
  options.prefill_attention = PrefillAttention::kPadded;
  options.padded_memory_bytes = 12345;
  worker::v1::LoadRequest message;
  EncodeStageOptions(options, &message);
  worker::v1::LoadRequest received;
  ASSERT_TRUE(received.ParseFromString(message.SerializeAsString()));
  const absl::StatusOr<StageOptions> decoded = DecodeStageOptions(received);
  ASSERT_TRUE(IsOk(decoded));
  EXPECT_EQ(decoded->model, options.model);
  EXPECT_EQ(decoded->kv_memory_bytes, options.kv_memory_bytes);
  EXPECT_EQ(decoded->max_step_tokens, 17);
  EXPECT_EQ(decoded->max_sequences, 5);
  EXPECT_EQ(decoded->threads, 3);
  EXPECT_EQ(decoded->prefill_attention, PrefillAttention::kPadded);
  EXPECT_EQ(decoded->padded_memory_bytes, 12345);
}

TEST(WorkerCodecTest, StageInfoComesBack) {
  StageInfo info = FakeExecutor::Info({});
  info.config.rms_norm_eps = 1e-6f;
  info.config.rope_theta = 500000.0f;
  info.config.tied_embeddings = true;
  worker::v1::LoadResponse message;
  EncodeStageInfo(info, &message);
  const absl::StatusOr<StageInfo> decoded = DecodeStageInfo(message);
  ASSERT_TRUE(IsOk(decoded));
  EXPECT_EQ(decoded->config.architecture, "llama");
  EXPECT_EQ(decoded->config.name, "Fake");
  EXPECT_EQ(decoded->config.hidden_size, 64);
  EXPECT_EQ(decoded->config.intermediate_size, 128);
  EXPECT_EQ(decoded->config.num_layers, 2);
  EXPECT_EQ(decoded->config.num_heads, 4);
  EXPECT_EQ(decoded->config.num_kv_heads, 2);
  EXPECT_EQ(decoded->config.head_dim, 16);
  EXPECT_EQ(decoded->config.vocab_size, 50);
  EXPECT_EQ(decoded->config.context_length, 256);
  EXPECT_EQ(decoded->config.rms_norm_eps, 1e-6f);
  EXPECT_EQ(decoded->config.rope_theta, 500000.0f);
  EXPECT_TRUE(decoded->config.tied_embeddings);
  EXPECT_EQ(decoded->num_blocks, info.num_blocks);
  EXPECT_EQ(decoded->weight_bytes, 1000);
  EXPECT_EQ(decoded->load_ns, 5);
}

TEST(WorkerCodecTest, PlanComesBack) {
  const StepPlan plan = ExamplePlan();
  worker::v1::StepPlan message;
  EncodeStepPlan(plan, &message);
  const absl::StatusOr<StepPlan> decoded = DecodeStepPlan(message);
  ASSERT_TRUE(IsOk(decoded));
  EXPECT_EQ(decoded->number, plan.number);
  EXPECT_EQ(decoded->epoch, plan.epoch);
  ASSERT_EQ(decoded->admissions.size(), 1u);
  EXPECT_EQ(decoded->admissions[0].slot, 3);
  EXPECT_EQ(decoded->admissions[0].generation, 7u);
  EXPECT_EQ(decoded->admissions[0].sampling.temperature, 0.5f);
  EXPECT_EQ(decoded->admissions[0].sampling.top_k, 40);
  EXPECT_EQ(decoded->admissions[0].sampling.top_p, 0.9f);
  EXPECT_EQ(decoded->admissions[0].sampling.seed, ~uint64_t{0});
  EXPECT_EQ(decoded->admissions[0].sampling.choice, 2);
  ASSERT_EQ(decoded->rows.size(), 1u);
  EXPECT_EQ(decoded->rows[0].slot, 3);
  EXPECT_EQ(decoded->rows[0].generation, 7u);
  EXPECT_EQ(decoded->rows[0].position, 64);
  EXPECT_EQ(decoded->rows[0].tokens, plan.rows[0].tokens);
  EXPECT_EQ(decoded->rows[0].blocks, plan.rows[0].blocks);
  EXPECT_TRUE(decoded->rows[0].sample);
}

TEST(WorkerCodecTest, ResultComesBack) {
  StepResult result;
  result.number = 9;
  result.epoch = 2;
  result.compute_ns = 123;
  result.samples = {{1, 4, 77, 50, -0.5f, {}}, {0, 1, 3, 0, -INFINITY, {}}};
  worker::v1::StepResult message;
  EncodeStepResult(result, &message);
  const absl::StatusOr<StepResult> decoded = DecodeStepResult(message);
  ASSERT_TRUE(IsOk(decoded));
  EXPECT_EQ(decoded->number, 9u);
  EXPECT_EQ(decoded->epoch, 2u);
  EXPECT_EQ(decoded->compute_ns, 123);
  ASSERT_EQ(decoded->samples.size(), 2u);
  EXPECT_EQ(decoded->samples[0].slot, 1);
  EXPECT_EQ(decoded->samples[0].generation, 4u);
  EXPECT_EQ(decoded->samples[0].position, 77);
  EXPECT_EQ(decoded->samples[0].token, 50);
  EXPECT_EQ(decoded->samples[0].logprob, -0.5f);
  EXPECT_EQ(decoded->samples[1].logprob, -INFINITY);
}

TEST(WorkerCodecTest, ErrorComesBack) {
  worker::v1::Error message;
  EncodeError(absl::NotFoundError("no file \xff"), &message);
  EXPECT_EQ(DecodeError(message), absl::NotFoundError("no file \xff"));
  for (const int code : {0, -1, 17, 1000}) {
    message.set_code(code);
    EXPECT_EQ(DecodeError(message).code(), absl::StatusCode::kInternal) << code;
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
      {"SamplingParams.choice", [&](Plan* plan) { sampling(plan)->set_choice(-1); }},
      {"PlanRow.slot", [](Plan* plan) { plan->mutable_rows(0)->set_slot(INT32_MAX); }},
      {"PlanRow.position", [](Plan* plan) { plan->mutable_rows(0)->set_position(-1); }},
      {"PlanRow.position", [](Plan* plan) { plan->mutable_rows(0)->set_position(INT64_MAX); }},
      {"PlanRow.tokens.size", [](Plan* plan) { plan->mutable_rows(0)->clear_tokens(); }},
      {"PlanRow.tokens", [](Plan* plan) { plan->mutable_rows(0)->set_tokens(1, -1); }},
      {"PlanRow.blocks", [](Plan* plan) { plan->mutable_rows(0)->set_blocks(0, -5); }},
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

TEST(WorkerCodecTest, RefusesMalformedLoads) {
  const auto options = [](const std::function<void(worker::v1::LoadRequest*)>& spoil) {
    worker::v1::LoadRequest message;
    EncodeStageOptions({}, &message);
    spoil(&message);
    return DecodeStageOptions(message);
  };
  using Request = worker::v1::LoadRequest;
  EXPECT_TRUE(Fails(options([](Request* m) { m->set_kv_memory_bytes(-1); }), kInvalid,
                    {"kv_memory_bytes", "-1"}));
  EXPECT_TRUE(
      Fails(options([](Request* m) { m->set_max_step_tokens(0); }), kInvalid, {"max_step_tokens"}));
  EXPECT_TRUE(Fails(options([](Request* m) { m->set_max_sequences(INT64_MAX); }), kInvalid,
                    {"max_sequences"}));
  EXPECT_TRUE(Fails(options([](Request* m) { m->set_threads(-2); }), kInvalid, {"threads"}));
  EXPECT_TRUE(Fails(options([](Request* m) {
                      m->set_prefill_attention(static_cast<worker::v1::PrefillAttention>(2));
                    }),
                    kInvalid, {"prefill_attention"}));
  EXPECT_TRUE(Fails(options([](Request* m) { m->set_padded_memory_bytes(-1); }), kInvalid,
                    {"padded_memory_bytes"}));

  worker::v1::LoadProgress progress;
  EncodeLoadProgress({3, 4, "t"}, &progress);
  EXPECT_EQ(DecodeLoadProgress(progress)->tensor, "t");
  progress.set_done(5);
  EXPECT_TRUE(Fails(DecodeLoadProgress(progress), kInvalid, {"LoadProgress.done"}));
  progress.set_total(-1);
  EXPECT_TRUE(Fails(DecodeLoadProgress(progress), kInvalid, {"LoadProgress.total"}));

  worker::v1::LoadResponse empty;
  EXPECT_TRUE(Fails(DecodeStageInfo(empty), kInvalid, {"LoadResponse.config"}));
  worker::v1::LoadResponse info;
  EncodeStageInfo(FakeExecutor::Info({}), &info);
  info.set_num_blocks(0);
  EXPECT_TRUE(Fails(DecodeStageInfo(info), kInvalid, {"num_blocks"}));
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
  EXPECT_TRUE(Fails(result(0, 0, -2, 0.0f), kInvalid, {"token"}));
  EXPECT_TRUE(Fails(result(0, 0, 0, NAN), kInvalid, {"logprob"}));
  EXPECT_TRUE(Fails(result(0, 0, 0, 1.0f), kInvalid, {"logprob"}));
}

}  // namespace
}  // namespace penstock
