// The sampling end of the stage on a small random model, driven by the real scheduler: histories,
// replays, the prompt's log-probabilities, rows that fail.
#include "worker/stage_sampler.h"

#include <algorithm>

#include "tests/support/stage_driver.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"
#include "worker/stage.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

std::vector<int32_t> Prompt(int32_t first, int32_t count) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < count; ++i) prompt.push_back((first + i * i * 7) % kTinyVocab);
  return prompt;
}

class StageSamplerTest : public ::testing::Test {
 protected:
  static constexpr int64_t kSlots = 6;

  std::unique_ptr<StageExecutor> Loaded(PrefillAttention attention = PrefillAttention::kFlash) {
    return LoadFile(file_.path(), attention);
  }
  std::unique_ptr<StageExecutor> LoadFile(const std::string& path,
                                          PrefillAttention attention = PrefillAttention::kFlash) {
    StageOptions options;
    options.model = path;
    options.kv_memory_bytes = 1 << 20;
    options.max_step_tokens = 64;
    options.max_sequences = kSlots;
    options.threads = 2;
    options.prefill_attention = attention;
    std::unique_ptr<StageExecutor> stage = MakeModelStage();
    const auto info = stage->Load(options);
    EXPECT_TRUE(IsOk(info));
    if (info.ok()) num_blocks_ = info->num_blocks;
    return stage;
  }
  std::vector<StageAnswer> Run(StageExecutor& stage, const std::vector<StageRequest>& requests,
                               int64_t step_tokens = 64) const {
    return Serve(stage, {num_blocks_, kSlots, step_tokens}, requests);
  }

  // Requests that use every parameter.
  static std::vector<StageRequest> Requests() {
    std::vector<StageRequest> requests;
    for (int32_t i = 0; i < 8; ++i) {
      StageRequest request{Prompt(i, 2 + i * 11), 30, {}};
      SamplingParams& sampling = request.sampling;
      sampling.temperature = i % 4 == 0 ? 0.0f : 0.9f;
      sampling.seed = static_cast<uint64_t>(i);
      if (i != 1) sampling.repetition_penalty = 1.2f;
      if (i % 3 == 0) sampling.presence_penalty = 0.5f;
      if (i % 2 == 0) sampling.frequency_penalty = 0.3f;
      if (i >= 4) sampling.logit_bias = {{i, 2.0f}, {i + 40, -1.0f}};
      if (i % 3 == 1) sampling.min_p = 0.02f;
      if (i == 5) sampling.top_p = 0.9f;
      for (int32_t id = 0; id < 40; ++id) sampling.stop_ids.push_back(id * 2);
      sampling.min_tokens = 30;
      for (int32_t id = 0; id < kTinyVocab; ++id) sampling.bad_words.push_back({id, id});
      sampling.logprobs = i % 4;
      sampling.prompt_logprobs = i % 3 - 1;
      requests.push_back(request);
    }
    return requests;
  }

  const TempFile file_{TinyModel().Build()};
  int64_t num_blocks_ = 0;
};

void ExpectSame(const StageAnswer& a, const StageAnswer& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.logprobs, b.logprobs);
  EXPECT_EQ(a.tops, b.tops);
  EXPECT_EQ(a.end, b.end);
  ASSERT_EQ(a.prompt.size(), b.prompt.size());
  for (size_t i = 0; i < a.prompt.size(); ++i) {
    EXPECT_EQ(a.prompt[i].position, b.prompt[i].position);
    EXPECT_EQ(a.prompt[i].token, b.prompt[i].token);
    EXPECT_EQ(a.prompt[i].top, b.prompt[i].top);
  }
}

TEST_F(StageSamplerTest, WithEveryParameterABatchGivesTheBitsOfEachAlone) {
  const auto stage = Loaded();
  const std::vector<StageRequest> requests = Requests();
  const std::vector<StageAnswer> together = Run(*stage, requests, 17);
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(i);
    ExpectSame(Run(*stage, {requests[i]})[0], together[i]);
    const std::vector<int32_t>& tokens = together[i].tokens;
    ASSERT_EQ(tokens.size(), 30u);
    EXPECT_EQ(std::adjacent_find(tokens.begin(), tokens.end()), tokens.end()) << "a bad word";
    EXPECT_NE(tokens[0], requests[i].prompt.back());
    for (int32_t token : tokens) EXPECT_TRUE(token >= 80 || token % 2 == 1) << "a stop id";
    for (const auto& top : together[i].tops) EXPECT_EQ(top.size(), i % 4);
  }
}

// What a slot keeps is a function of the admission's history and of what it sampled since.
TEST_F(StageSamplerTest, AReplayFromTheHistoryGoesOnWithTheSameTokens) {
  const auto stage = Loaded();
  for (const StageRequest& request : Requests()) {
    const StageAnswer whole = Run(*stage, {request})[0];
    for (const size_t cut : {1, 13, 29}) {
      const auto fresh = Loaded();
      std::vector<int32_t> history = request.prompt;
      history.insert(history.end(), whole.tokens.begin(),
                     whole.tokens.begin() + static_cast<int64_t>(cut));
      StepPlan plan;
      plan.number = 1;
      Admission& admission = plan.admissions.emplace_back();
      admission.generation = 1;
      admission.sampling = request.sampling;
      admission.prompt_tokens = static_cast<int64_t>(request.prompt.size());
      if (request.sampling.needs_history()) admission.history = history;
      // The history is fed again without sampling, in steps the stage takes; its last token
      // samples.
      for (size_t fed = 0; fed < history.size(); ++plan.number) {
        PlanRow row;
        row.generation = 1;
        row.position = static_cast<int64_t>(fed);
        const size_t count = std::min<size_t>(50, history.size() - fed);
        row.tokens.assign(history.begin() + static_cast<int64_t>(fed),
                          history.begin() + static_cast<int64_t>(fed + count));
        row.blocks = {0, 1, 2};
        fed += count;
        row.sample = fed == history.size();
        plan.rows = {row};
        const auto result = fresh->Execute(plan);
        ASSERT_TRUE(IsOk(result));
        plan.admissions.clear();
        if (!row.sample) continue;
        EXPECT_EQ(result->samples[0].token, whole.tokens[cut]);
        EXPECT_EQ(result->samples[0].logprob, whole.logprobs[cut]);
        // ... and the token after, with what was sampled just now in the history.
        if (cut == 29) continue;
        row.position = static_cast<int64_t>(history.size());
        row.tokens = {whole.tokens[cut]};
        plan.rows = {row};
        const auto next = fresh->Execute(plan);
        ASSERT_TRUE(IsOk(next));
        EXPECT_EQ(next->samples[0].token, whole.tokens[cut + 1]);
      }
    }
  }
}

// The answer fed as a prompt is told the log-probabilities that it was sampled with.
TEST_F(StageSamplerTest, ThePromptsLogProbabilitiesAreThoseOfSampling) {
  for (const PrefillAttention attention : {PrefillAttention::kFlash, PrefillAttention::kPadded}) {
    const auto stage = Loaded(attention);
    StageRequest request{Prompt(3, 5), 60, {}};
    request.sampling.logprobs = 4;
    const StageAnswer answer = Run(*stage, {request})[0];
    StageRequest told{request.prompt, 1, {}};
    told.prompt.insert(told.prompt.end(), answer.tokens.begin(), answer.tokens.end());
    told.sampling.prompt_logprobs = 4;
    for (const int64_t step_tokens : {7, 9, 64}) {  // 64: several tiles of 6 rows in a plan
      // Beside others, so that rows of one token and of several share the plan.
      std::vector<StageRequest> requests(4, told);
      requests[1].prompt.resize(1);
      requests[2].prompt.resize(9);
      requests[3].sampling.prompt_logprobs = 0;
      const std::vector<StageAnswer> answers = Run(*stage, requests, step_tokens);
      EXPECT_TRUE(answers[1].prompt.empty());
      EXPECT_EQ(answers[2].prompt.size(), 8u);
      ASSERT_EQ(answers[0].prompt.size(), told.prompt.size() - 1);
      ASSERT_EQ(answers[3].prompt.size(), told.prompt.size() - 1);
      for (size_t i = 0; i < answers[0].prompt.size(); ++i) {
        const PromptLogprob& one = answers[0].prompt[i];
        EXPECT_EQ(one.position, static_cast<int64_t>(i) + 1);
        EXPECT_EQ(one.token.token, told.prompt[i + 1]);
        EXPECT_EQ(answers[3].prompt[i].token, one.token);
        EXPECT_TRUE(answers[3].prompt[i].top.empty());
        if (i + 1 < request.prompt.size()) continue;
        const size_t at = i + 1 - request.prompt.size();
        if (attention == PrefillAttention::kFlash) {
          EXPECT_EQ(one.token.logprob, answer.logprobs[at]);
          EXPECT_EQ(one.top, answer.tops[at]);
        } else {
          EXPECT_NEAR(one.token.logprob, answer.logprobs[at], 1e-4);
        }
      }
    }
  }
}

TEST_F(StageSamplerTest, ARowWithoutNumbersFailsAloneAndItsNeighboursKeepEveryBit) {
  const TempFile broken(ModelWithABrokenToken());
  const auto stage = LoadFile(broken.path());
  std::vector<StageRequest> requests;
  for (int32_t i = 0; i < 5; ++i) {
    StageRequest request{Prompt(i, 4 + i * 9), 20, {}};
    std::replace(request.prompt.begin(), request.prompt.end(), 5, 6);
    request.sampling.seed = static_cast<uint64_t>(i);
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 1.0f;
    request.sampling.bad_words = {{5}};
    request.sampling.prompt_logprobs = i == 3 ? 1 : -1;
    requests.push_back(request);
  }
  const std::vector<StageAnswer> sound = Run(*stage, requests, 23);
  for (const StageAnswer& answer : sound) EXPECT_EQ(answer.end, SequenceEnd::kLength);
  for (const size_t failing : {2, 3}) {  // 3: its prompt's log-probabilities fail
    std::vector<StageRequest> spoiled = requests;
    spoiled[failing].prompt[3] = 5;
    const std::vector<StageAnswer> answers = Run(*stage, spoiled, 23);
    for (size_t i = 0; i < answers.size(); ++i) {
      SCOPED_TRACE(i);
      if (i != failing) {
        ExpectSame(answers[i], sound[i]);
        continue;
      }
      EXPECT_EQ(answers[i].end, SequenceEnd::kFailed);
      EXPECT_TRUE(answers[i].tokens.empty());
    }
  }
}

TEST_F(StageSamplerTest, RefusesWhatDoesNotFitASlot) {
  const auto stage = Loaded();
  StepPlan plan;
  Admission admission;
  admission.generation = 1;
  admission.prompt_tokens = 2;
  admission.history = {1, 2};
  admission.sampling.frequency_penalty = 1.0f;
  plan.admissions = {admission};
  PlanRow row;
  row.generation = 1;
  row.tokens = {1, 2};
  row.blocks = {0};
  row.sample = true;
  plan.rows = {row, row};
  const auto refused = absl::StatusCode::kFailedPrecondition;
  EXPECT_TRUE(Fails(stage->Execute(plan), refused, {"slot 0", "two rows"}));
  plan.rows = {row};
  plan.rows[0].targets = {2};
  EXPECT_TRUE(Fails(stage->Execute(plan), refused, {"slot 0", "no log-probabilities"}));
  plan.rows[0] = row;
  plan.rows[0].tokens = {1};
  EXPECT_TRUE(Fails(stage->Execute(plan), refused, {"position 1", "history has 2"}));
  plan.rows[0] = row;
  EXPECT_TRUE(IsOk(stage->Execute(plan)));
  plan.admissions.clear();
  EXPECT_TRUE(Fails(stage->Execute(plan), refused, {"position 2", "history has 3"}));
}

}  // namespace
}  // namespace penstock
