// Each model family against Hugging Face: tiny random models as transformers saves them
// (make_families.py), their float32 logits and greedy tokens.
#include "tests/support/families.h"

#include <fstream>

#include "core/kernels/cpu_ops.h"
#include "core/model/rope_frequencies.h"
#include "nlohmann/json.hpp"
#include "tests/support/drive.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)
using nlohmann::json;

constexpr double kLogitTolerance = 1e-4;

struct Reference {
  std::vector<float> frequencies;
  std::vector<int32_t> prompt;
  std::vector<int32_t> answer;
  std::vector<int64_t> positions;
  std::vector<std::vector<double>> logits;  // of each position
  std::vector<std::string> features;

  std::vector<int32_t> All() const {
    std::vector<int32_t> all = prompt;
    all.insert(all.end(), answer.begin(), answer.end());
    return all;
  }
};

Reference ReadReference(const std::string& folder) {
  std::ifstream file(folder + "/reference.json");
  const json golden = json::parse(file, nullptr, false);
  PENSTOCK_CHECK(!golden.is_discarded());
  Reference reference;
  golden["frequencies"].get_to(reference.frequencies);
  golden["prompt"].get_to(reference.prompt);
  golden["answer"].get_to(reference.answer);
  golden["positions"].get_to(reference.positions);
  golden["logits"].get_to(reference.logits);
  golden["features"].get_to(reference.features);
  return reference;
}

class FamiliesTest : public ::testing::TestWithParam<std::string> {
 protected:
  // The largest difference from the reference's logits when its tokens come in such chunks.
  double Worst(const ModelConfig& config, PrefillAttention prefill, int64_t chunk) const {
    CpuOps ops(Pool());
    ModelLimits limits;
    limits.max_tokens = 256;
    limits.max_samples = 1;
    limits.prefill_attention = prefill;
    ModelRunner runner(config, *family_.weights, limits, ops);
    const std::vector<int32_t> ids = reference_.All();
    const auto length = static_cast<int64_t>(ids.size());
    double worst = 0;
    for (int64_t begin = 0; begin < length; begin += chunk) {
      const int64_t end = std::min(length, begin + chunk);
      PlanRow row;
      row.position = begin;
      row.tokens.assign(ids.begin() + begin, ids.begin() + end);
      row.blocks = BlocksOfSlot(0, end, config.context_length);
      StepPlan plan;
      plan.rows = {row};
      runner.Forward(plan);
      for (size_t i = 0; i < reference_.positions.size(); ++i) {
        const int64_t position = reference_.positions[i];
        if (position < begin || position >= end) continue;
        std::vector<int32_t> place = {static_cast<int32_t>(position - begin)};
        const std::vector<float> logits = ToVector(runner.Logits(FromVector(place)));
        PENSTOCK_CHECK_EQ(logits.size(), reference_.logits[i].size());
        for (size_t v = 0; v < logits.size(); ++v) {
          const double difference = std::abs(logits[v] - reference_.logits[i][v]);
          worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
        }
      }
    }
    return worst;
  }

  const Reference reference_ = ReadReference(FamilyFolder(GetParam()));
  const Family family_ = OpenFamily(GetParam());
};

// Prefill whole and in chunks, and token by token: decode attention's own path.
TEST_P(FamiliesTest, LogitsEqualHuggingFace) {
  double worst = 0;
  for (const auto prefill : {PrefillAttention::kFlash, PrefillAttention::kPadded}) {
    for (const int64_t chunk : {256, 64, 17, 1}) {
      const double difference = Worst(family_.config, prefill, chunk);
      EXPECT_LE(difference, kLogitTolerance)
          << (prefill == PrefillAttention::kPadded ? "padded" : "flash") << ", chunks of " << chunk;
      worst = std::max(worst, difference);
    }
  }
  std::cout << GetParam() << ": largest difference of a logit " << worst << "\n";
}

TEST_P(FamiliesTest, GreedyTokensOfAStageEqualHuggingFace) {
  for (const auto prefill : {PrefillAttention::kFlash, PrefillAttention::kPadded}) {
    StageOptions options;
    options.model = FamilyFolder(GetParam());
    options.kv_memory_bytes = 8 << 20;
    options.max_step_tokens = 256;
    options.max_sequences = 2;
    options.prefill_attention = prefill;
    const auto stage = MakeModelStage();
    ASSERT_TRUE(IsOk(stage->Load(options)));
    for (const int64_t chunk : {256, 37}) {
      Driven sequence;
      sequence.prompt = reference_.prompt;
      sequence.sampling.temperature = 0;
      sequence.chunk = chunk;
      std::vector<Driven> one = {sequence};
      ASSERT_NO_FATAL_FAILURE(
          Drive(*stage, one, reference_.answer.size(), family_.config.context_length));
      EXPECT_EQ(one[0].answer.tokens, reference_.answer) << chunk;
    }
  }
}

TEST_P(FamiliesTest, FrequenciesEqualHuggingFace) {
  const std::vector<float> frequencies = RopeFrequencies(family_.config);
  ASSERT_EQ(frequencies.size(), reference_.frequencies.size());
  for (size_t i = 0; i < frequencies.size(); ++i) {
    // Two libraries' powf may differ in the last bit.
    EXPECT_FLOAT_EQ(frequencies[i], reference_.frequencies[i]) << i;
  }
}

// The same scaling as a GGUF file says it: a divisor of each frequency.
TEST_P(FamiliesTest, ScalingByFactorsIsTheSameModel) {
  ModelConfig config = family_.config;
  config.rope_scaling = {};
  std::vector<float> factors = RopeFrequencies(config);
  for (size_t i = 0; i < factors.size(); ++i) factors[i] /= reference_.frequencies[i];
  config.rope_scaling.type = RopeScaling::Type::kFactors;
  config.rope_scaling.factors = factors;
  ASSERT_TRUE(IsOk(Validate(config)));
  EXPECT_LE(Worst(config, PrefillAttention::kFlash, 64), kLogitTolerance);
}

// The comparison would notice: without what makes the family, logits are elsewhere.
TEST_P(FamiliesTest, WithoutItsFeatureAFamilyIsAnotherModel) {
  for (const std::string& feature : reference_.features) {
    ModelConfig config = family_.config;
    if (feature == "scaling") {
      config.rope_scaling = {};
    } else if (feature == "window") {
      config.sliding_window = 0;
    } else if (feature == "qk_norm") {
      config.qk_norm = false;
    } else {
      ASSERT_EQ(feature, "bias");
      EXPECT_TRUE(config.qkv_bias);  // loading refuses a bias that the configuration has not
      continue;
    }
    for (const auto prefill : {PrefillAttention::kFlash, PrefillAttention::kPadded}) {
      EXPECT_GT(Worst(config, prefill, 256), 100 * kLogitTolerance) << feature;
      EXPECT_GT(Worst(config, prefill, 1), 100 * kLogitTolerance) << feature;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, FamiliesTest, ::testing::ValuesIn(FamilyNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace penstock
