// The truth test: greedy tokens of the whole path (GGUF file, tokenizer, forward pass, sampler)
// against Hugging Face float32 on the dequantized weights, token for token. A run may leave the
// reference only where the reference's own two best logits are within 1e-3 of each other.
#include <fstream>

#include "core/base/kv_block.h"
#include "core/io/model_file.h"
#include "nlohmann/json.hpp"
#include "tests/support/status_matchers.h"
#include "tests/support/tensors.h"
#include "worker/stage.h"

namespace penstock {
namespace {

using nlohmann::json;

constexpr double kNearTie = 1e-3;  // logits
constexpr double kLogitTolerance = 1e-3;

// The sanitizers make a token some twenty times as dear: a sample of the cases is enough there.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kEveryCase = 8;
constexpr size_t kTokensAtMost = 8;
#else
constexpr size_t kEveryCase = 1;
constexpr size_t kTokensAtMost = 1000;
#endif

struct Case {
  std::string name;
  std::vector<int32_t> prompt;
  std::vector<int32_t> ids;
  std::vector<double> logprobs;
  std::vector<double> gaps;

  std::vector<int32_t> got;
  std::vector<double> got_logprobs;
};

class GoldenGenerationTest : public ::testing::Test {
 protected:
  static constexpr int32_t kSlots = 8;

  void SetUp() override {
    ASSERT_STRNE(PENSTOCK_TEST_MODEL, "")
        << "configure with -DPENSTOCK_MODEL=$(scripts/fetch-model)";
    std::ifstream file(PENSTOCK_SOURCE_DIR "/tests/golden/smollm2_generation.json");
    golden_ = json::parse(file, nullptr, false);
    ASSERT_FALSE(golden_.is_discarded());
    ASSERT_GE(golden_["cases"].size(), 30u);
    Load(PrefillAttention::kFlash);
  }

  void Load(PrefillAttention prefill_attention) {
    StageOptions options;
    options.model = PENSTOCK_TEST_MODEL;
    options.kv_memory_bytes = int64_t{1} << 30;
    options.max_step_tokens = 512;
    options.max_sequences = kSlots;
    options.prefill_attention = prefill_attention;
    stage_ = MakeModelStage();
    const auto info = stage_->Load(options);
    ASSERT_TRUE(IsOk(info));
    num_blocks_ = info->num_blocks;
  }

  static std::vector<Case> ReadCases(const json& golden) {
    std::vector<Case> cases;
    for (size_t i = 0; i < golden["cases"].size(); i += kEveryCase) {
      const json& entry = golden["cases"][i];
      Case one;
      one.name = entry["name"];
      entry["prompt_ids"].get_to(one.prompt);
      entry["ids"].get_to(one.ids);
      entry["logprobs"].get_to(one.logprobs);
      entry["gaps"].get_to(one.gaps);
      one.ids.resize(std::min(one.ids.size(), kTokensAtMost));
      cases.push_back(std::move(one));
    }
    return cases;
  }

  // Runs up to kSlots cases side by side: prompts in chunks of `chunk`, then token by token.
  void Run(std::vector<Case*> cases, size_t chunk) {
    ASSERT_LE(cases.size(), static_cast<size_t>(kSlots));
    ++generation_;
    std::vector<size_t> fed(cases.size(), 0);
    for (bool working = true; working;) {
      working = false;
      StepPlan plan;
      plan.number = ++number_;
      size_t budget = 512;
      for (size_t i = 0; i < cases.size(); ++i) {
        Case& one = *cases[i];
        const size_t known = one.prompt.size() + one.got.size();
        if (one.got.size() == one.ids.size() || budget == 0) continue;
        working = true;
        PlanRow row;
        row.slot = static_cast<int32_t>(i);
        row.generation = generation_;
        row.position = static_cast<int64_t>(fed[i]);
        if (fed[i] == 0) {
          SamplingParams greedy;
          greedy.temperature = 0;
          plan.admissions.push_back({row.slot, generation_, greedy, 0, {}});
        }
        for (size_t n = std::min({chunk, known - fed[i], budget}); n > 0; --n, --budget) {
          const size_t at = fed[i]++;
          row.tokens.push_back(at < one.prompt.size() ? one.prompt[at]
                                                      : one.got[at - one.prompt.size()]);
        }
        row.sample = fed[i] == known;
        for (int64_t b = 0; b < BlocksFor(row.position + static_cast<int64_t>(row.tokens.size()));
             ++b) {
          row.blocks.push_back(static_cast<int32_t>(b * kSlots + static_cast<int64_t>(i)));
          ASSERT_LT(row.blocks.back(), num_blocks_);
        }
        plan.rows.push_back(std::move(row));
      }
      if (plan.rows.empty()) continue;
      const absl::StatusOr<StepResult> result = stage_->Execute(plan);
      ASSERT_TRUE(IsOk(result));
      for (const SampledToken& sample : result->samples) {
        Case& one = *cases[static_cast<size_t>(sample.slot)];
        one.got.push_back(sample.token);
        one.got_logprobs.push_back(sample.logprob);
      }
    }
  }

  // Every token, but for near ties, and its log-probability.
  static void ExpectTruth(const std::vector<Case>& cases) {
    size_t tokens = 0;
    size_t near_ties = 0;
    double worst = 0;
    for (const Case& one : cases) {
      for (size_t i = 0; i < one.ids.size(); ++i) {
        if (one.got[i] != one.ids[i]) {
          EXPECT_LE(one.gaps[i], kNearTie) << one.name << ": token " << i << " is " << one.got[i]
                                           << ", Hugging Face has " << one.ids[i];
          ++near_ties;
          break;  // after a near tie the two go different ways
        }
        worst = std::max(worst, std::abs(one.got_logprobs[i] - one.logprobs[i]));
        ++tokens;
      }
    }
    EXPECT_LE(worst, kLogitTolerance);
    std::cout << cases.size() << " cases, " << tokens << " tokens equal, " << near_ties
              << " near ties, largest difference of a log-probability " << worst << "\n";
  }

  json golden_;
  std::unique_ptr<StageExecutor> stage_;
  int64_t num_blocks_ = 0;
  uint32_t generation_ = 0;
  uint64_t number_ = 0;
};

TEST_F(GoldenGenerationTest, GreedyTokensEqualHuggingFace) {
  std::vector<Case> cases = ReadCases(golden_);
  for (size_t first = 0; first < cases.size(); first += kSlots) {
    std::vector<Case*> batch;
    for (size_t i = first; i < std::min(cases.size(), first + kSlots); ++i) {
      batch.push_back(&cases[i]);
    }
    ASSERT_NO_FATAL_FAILURE(Run(batch, 512));
  }
  ExpectTruth(cases);
}

// The same by the padded prefill attention, prompts in chunks.
TEST_F(GoldenGenerationTest, PaddedPrefillGivesTheTokensOfHuggingFace) {
  ASSERT_NO_FATAL_FAILURE(Load(PrefillAttention::kPadded));
  std::vector<Case> cases;
  std::vector<Case> all = ReadCases(golden_);
  for (auto one = all.rbegin(); one != all.rend() && cases.size() < kSlots; ++one) {
    if (one->prompt.size() < 2 || one->prompt.size() > 300) continue;
    one->ids.resize(std::min<size_t>(one->ids.size(), 12));
    cases.push_back(*one);
  }
  std::vector<Case*> batch;
  for (Case& one : cases) batch.push_back(&one);
  ASSERT_GE(batch.size(), 4u);
  ASSERT_NO_FATAL_FAILURE(Run(batch, 37));
  ExpectTruth(cases);
}

// The same sequence alone, in a batch, in small chunks: bit for bit.
TEST_F(GoldenGenerationTest, ChunksAndBatchesChangeNoBit) {
  const std::vector<Case> cases = ReadCases(golden_);
  std::vector<Case> together(cases.end() - 7, cases.end() - 1);
  std::vector<Case*> batch;
  for (Case& one : together) batch.push_back(&one);
  ASSERT_NO_FATAL_FAILURE(Run(batch, 37));
  for (const Case& one : together) {
    Case alone = one;
    alone.got.clear();
    alone.got_logprobs.clear();
    ASSERT_NO_FATAL_FAILURE(Run({&alone}, 512));
    EXPECT_EQ(alone.got, one.got) << one.name;
    EXPECT_EQ(alone.got_logprobs, one.got_logprobs) << one.name;
  }
}

// The prompts' ids come from Hugging Face's tokenizer; ours must give the same.
TEST_F(GoldenGenerationTest, PromptIdsEqualHuggingFace) {
  const absl::StatusOr<ModelTokenizer> file = OpenTokenizer(PENSTOCK_TEST_MODEL);
  ASSERT_TRUE(IsOk(file));
  const auto tokenizer = MakeTokenizer(file->spec);
  ASSERT_TRUE(IsOk(tokenizer));
  for (const json& entry : golden_["cases"]) {
    if (entry["text"].is_null()) continue;
    const auto ids = (*tokenizer)->Encode(entry["text"].get<std::string>(), entry["special"]);
    ASSERT_TRUE(IsOk(ids));
    EXPECT_EQ(*ids, entry["prompt_ids"].get<std::vector<int32_t>>()) << entry["name"];
  }
}

}  // namespace
}  // namespace penstock
