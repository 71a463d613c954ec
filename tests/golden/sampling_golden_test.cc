// The sampler's parameters against Hugging Face's LogitsProcessors: greedy answers of the packaged
// model under penalties, biases and masks, and log-probabilities of prompts, through the scheduler
// and the stage. An answer may leave the reference only where the reference's own two best scores
// are within 1e-3 of each other.
#include <fstream>

#include "nlohmann/json.hpp"
#include "tests/support/stage_driver.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)
using nlohmann::json;

constexpr double kNearTie = 1e-3;  // logits
constexpr double kTolerance = 1e-3;
constexpr int64_t kSlots = 16;

// The sanitizers make a token some twenty times as dear: a sample of the cases is enough there.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kEveryCase = 12;
#else
constexpr size_t kEveryCase = 1;
#endif

class GoldenSamplingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_STRNE(PENSTOCK_TEST_MODEL, "")
        << "configure with -DPENSTOCK_MODEL=$(scripts/fetch-model)";
    std::ifstream file(PENSTOCK_SOURCE_DIR "/tests/golden/smollm2_sampling.json");
    golden_ = json::parse(file, nullptr, false);
    ASSERT_FALSE(golden_.is_discarded());
    StageOptions options;
    options.model = PENSTOCK_TEST_MODEL;
    options.kv_memory_bytes = int64_t{1} << 28;
    options.max_step_tokens = 512;
    options.max_sequences = kSlots;
    stage_ = MakeModelStage();
    const auto info = stage_->Load(options);
    ASSERT_TRUE(IsOk(info));
    scheduler_ = {info->num_blocks, kSlots, 512};
  }

  // The cases that have the field.
  std::vector<json> Cases(const char* field) const {
    std::vector<json> cases;
    size_t count = 0;
    for (const json& one : golden_["cases"]) {
      if (one.contains(field) && count++ % kEveryCase == 0) cases.push_back(one);
    }
    return cases;
  }

  SamplingParams Params(const json& parameters) const {
    SamplingParams params;
    params.temperature = 0;
    params.stop_ids = golden_["header"]["end_ids"].get<std::vector<int32_t>>();
    params.repetition_penalty = parameters.value("repetition_penalty", 1.0f);
    params.presence_penalty = parameters.value("presence_penalty", 0.0f);
    params.frequency_penalty = parameters.value("frequency_penalty", 0.0f);
    params.min_tokens = parameters.value("min_tokens", int64_t{0});
    params.bad_words = parameters.value("bad_words", std::vector<std::vector<int32_t>>());
    for (const json& bias : parameters.value("logit_bias", json::array())) {
      params.logit_bias.push_back({bias[0].get<int32_t>(), bias[1].get<float>()});
    }
    return params;
  }

  json golden_;
  std::unique_ptr<StageExecutor> stage_;
  SchedulerOptions scheduler_;
};

TEST_F(GoldenSamplingTest, GreedyAnswersUnderEveryParameterEqualHuggingFace) {
  const std::vector<json> cases = Cases("parameters");
  std::vector<StageRequest> requests;
  for (const json& one : cases) {
    requests.push_back({one["prompt_ids"], one["max_tokens"], Params(one["parameters"])});
  }
  const std::vector<StageAnswer> answers = Serve(*stage_, scheduler_, requests);
  size_t tokens = 0;
  size_t changed = 0;
  double worst = 0;
  for (size_t c = 0; c < cases.size(); ++c) {
    const std::vector<int32_t> ids = cases[c]["ids"];
    const std::vector<int32_t>& got = answers[c].tokens;
    changed += cases[c]["changed"].get<bool>() ? 1 : 0;
    for (size_t i = 0; i < ids.size(); ++i, ++tokens) {
      if (i < got.size() && got[i] == ids[i]) {
        const double logprob = cases[c]["logprobs"][i];
        worst = std::max(worst, std::abs(answers[c].logprobs[i] - logprob));
        continue;
      }
      EXPECT_LE(cases[c]["gaps"][i].get<double>(), kNearTie)
          << cases[c]["name"] << ": token " << i << " is " << (i < got.size() ? got[i] : kNoToken)
          << ", Hugging Face has " << ids[i];
      break;  // after a near tie the two go different ways
    }
  }
  EXPECT_LE(worst, kTolerance);
  EXPECT_GT(changed * 3, cases.size() * 2) << "parameters that change nothing show nothing";
  std::cout << cases.size() << " cases, " << tokens << " tokens equal, " << changed
            << " answers changed by their parameters, largest difference of a log-probability "
            << worst << "\n";
}

TEST_F(GoldenSamplingTest, LogProbabilitiesOfPromptsEqualHuggingFace) {
  const std::vector<json> cases = Cases("prompt_logprobs");
  std::vector<StageRequest> requests;
  for (const json& one : cases) {
    StageRequest request{one["prompt_ids"], 1, {}};
    request.sampling.prompt_logprobs = static_cast<int32_t>(one["top_ids"][0].size());
    requests.push_back(request);
  }
  const std::vector<StageAnswer> answers = Serve(*stage_, scheduler_, requests);
  size_t told = 0;
  double worst = 0;
  for (size_t c = 0; c < cases.size(); ++c) {
    const json& one = cases[c];
    ASSERT_EQ(answers[c].prompt.size(), one["prompt_logprobs"].size());
    for (size_t i = 0; i < answers[c].prompt.size(); ++i, ++told) {
      const PromptLogprob& got = answers[c].prompt[i];
      EXPECT_EQ(got.token.token, one["prompt_ids"][i + 1].get<int32_t>());
      worst =
          std::max(worst, std::abs(got.token.logprob - one["prompt_logprobs"][i].get<double>()));
      ASSERT_EQ(got.top.size(), one["top_ids"][i].size());
      for (size_t t = 0; t < got.top.size(); ++t) {
        // By place: two that are nearly as likely may have changed theirs.
        worst =
            std::max(worst, std::abs(got.top[t].logprob - one["top_logprobs"][i][t].get<double>()));
        const bool same = got.top[t].token == one["top_ids"][i][t].get<int32_t>();
        const double gap = t == 0 ? 1.0
                                  : one["top_logprobs"][i][t - 1].get<double>() -
                                        one["top_logprobs"][i][t].get<double>();
        const double next = t + 1 == got.top.size()
                                ? 0.0
                                : one["top_logprobs"][i][t].get<double>() -
                                      one["top_logprobs"][i][t + 1].get<double>();
        EXPECT_TRUE(same || std::min(gap, next) <= kNearTie) << one["name"] << " " << i;
      }
    }
  }
  EXPECT_LE(worst, kTolerance);
  std::cout << told << " tokens of " << cases.size()
            << " prompts, largest difference of a log-probability " << worst << "\n";
}

}  // namespace
}  // namespace penstock
