// Draws against known distributions, by chi-squared tests: each parameter of the sampler gives the
// distribution that the float64 reference computes, and a test with the parameter left out of the
// reference rejects, so the tests can see. Fixed seeds: a test that passes always passes.
#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/support/sample_on.h"
#include "tests/support/sampling_reference.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

constexpr int64_t kVocab = 24;
constexpr int64_t kDraws = 20000;
constexpr int64_t kBatch = 100;

// What a chi-squared variate exceeds with probability 1e-6 (Wilson and Hilferty's approximation).
double Limit(double degrees) {
  const double a = 2.0 / (9.0 * degrees);
  return degrees * std::pow(1.0 - a + 4.7534 * std::sqrt(a), 3);
}

// The statistic over its limit: above 1 the counts are not drawn from `expected` (by bin; counts).
// Bins that expect fewer than five are taken together; a count where nothing is expected is
// infinitely wrong.
double ChiSquaredOverLimit(const std::vector<int64_t>& counts, const std::vector<double>& expected,
                           double lost_degrees = 1) {
  double chi_squared = 0;
  double bins = 0;
  double rest_count = 0;
  double rest_expected = 0;
  const auto add = [&](double count, double mean) {
    chi_squared += (count - mean) * (count - mean) / mean;
    ++bins;
  };
  for (size_t i = 0; i < counts.size(); ++i) {
    const auto count = static_cast<double>(counts[i]);
    if (expected[i] == 0) {
      if (count > 0) return INFINITY;
    } else if (expected[i] < 5) {
      rest_count += count;
      rest_expected += expected[i];
    } else {
      add(count, expected[i]);
    }
  }
  if (rest_expected > 0) add(rest_count, rest_expected);
  return chi_squared / Limit(std::max(1.0, bins - lost_degrees));
}

// kDraws tokens, each with a seed of its own.
std::vector<int32_t> Draw(const Tensor& logits, const SamplingParams& params,
                          const SequenceState& state, Backend backend = Backend::kCpu) {
  const std::vector<float> row = ToVector(logits);
  const Tensor batch = Make(DataType::kF32, {kBatch, kVocab});
  for (int64_t r = 0; r < kBatch; ++r) {
    std::copy(row.begin(), row.end(), static_cast<float*>(Tensor(batch).raw()) + r * kVocab);
  }
  std::vector<int32_t> drawn;
  std::vector<int32_t> tokens(kBatch);
  std::vector<float> logprobs(kBatch);
  for (int64_t first = 0; first < kDraws; first += kBatch) {
    std::vector<SamplingParams> each(kBatch, params);
    std::vector<SamplingRow> rows;
    for (int64_t r = 0; r < kBatch; ++r) {
      SamplingParams& one = each[static_cast<size_t>(r)];
      one.seed = static_cast<uint64_t>(first + r) * 0x9e3779b97f4a7c15u;
      rows.push_back(state.Row(one));
    }
    SampleOn(backend, batch, rows, {FromVector(tokens), FromVector(logprobs), {}, {}});
    drawn.insert(drawn.end(), tokens.begin(), tokens.end());
  }
  return drawn;
}

double OverLimit(const std::vector<int32_t>& drawn, const std::vector<double>& probabilities) {
  std::vector<int64_t> counts(kVocab);
  for (int32_t token : drawn) ++counts[static_cast<size_t>(token)];
  std::vector<double> expected;
  for (double p : probabilities) expected.push_back(p * static_cast<double>(kDraws));
  return ChiSquaredOverLimit(counts, expected);
}

struct Case {
  const char* name;
  void (*set)(SamplingParams&);
};

class SamplingDistributionTest : public ::testing::TestWithParam<Case> {
 protected:
  const Tensor logits_ = Random({1, kVocab}, 9, 1.5f);
  const SequenceState state_{{1, 2, 3, 4, 5, 5, 5}, {6, 7, 7, 8, 8, 8, 20, 21, 1}};
};

TEST_P(SamplingDistributionTest, IsTheReferencesAndNotThatWithoutTheParameter) {
  SamplingParams params;
  GetParam().set(params);
  const std::vector<float> logits = ToVector(logits_);
  const SamplingReference right(logits, params, state_);
  const SamplingParams plain;
  const SamplingReference without(logits, plain, state_);
  const std::vector<int32_t> drawn = Draw(logits_, params, state_);
  EXPECT_LE(OverLimit(drawn, right.probabilities()), 1);
  EXPECT_GT(OverLimit(drawn, without.probabilities()), 1);
  for (const Backend backend : Backends()) {
    EXPECT_EQ(Draw(logits_, params, state_, backend), drawn);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, SamplingDistributionTest,
    ::testing::Values(
        Case{"LowTemperature", [](SamplingParams& p) { p.temperature = 0.6f; }},
        Case{"HighTemperature", [](SamplingParams& p) { p.temperature = 1.8f; }},
        Case{"TopK", [](SamplingParams& p) { p.top_k = 5; }},
        Case{"TopP", [](SamplingParams& p) { p.top_p = 0.7f; }},
        Case{"MinP", [](SamplingParams& p) { p.min_p = 0.1f; }},
        Case{"RepetitionPenalty", [](SamplingParams& p) { p.repetition_penalty = 1.4f; }},
        Case{"PresencePenalty", [](SamplingParams& p) { p.presence_penalty = 0.8f; }},
        Case{"FrequencyPenalty", [](SamplingParams& p) { p.frequency_penalty = 0.4f; }},
        Case{"LogitBias",
             [](SamplingParams& p) {
               p.logit_bias = {{3, 1.0f}, {9, -2.0f}};
             }},
        Case{"MinTokens",
             [](SamplingParams& p) {
               p.stop_ids = {0, 1, 2, 3, 4, 5};
               p.min_tokens = 30;
             }},
        Case{"BadWords",
             [](SamplingParams& p) {
               p.bad_words = {{21, 1, 6}, {2}};
             }},
        Case{"TopPOfTopK",
             [](SamplingParams& p) {
               p.top_k = 8;
               p.top_p = 0.8f;
             }},
        Case{"AllTogether",
             [](SamplingParams& p) {
               p.temperature = 1.3f;
               p.top_k = 18;
               p.top_p = 0.95f;
               p.min_p = 0.02f;
               p.repetition_penalty = 1.2f;
               p.presence_penalty = 0.3f;
               p.frequency_penalty = 0.2f;
               p.logit_bias = {{3, 1.0f}};
               p.bad_words = {{2}};
             }}),
    [](const ::testing::TestParamInfo<Case>& info) { return info.param.name; });

TEST_F(SamplingDistributionTest, OfNoParameterIsTheSoftmax) {
  const SamplingParams plain;
  EXPECT_LE(OverLimit(Draw(logits_, plain, state_),
                      SamplingReference(ToVector(logits_), plain, state_).probabilities()),
            1);
}

// A small error must be seen, or the tests above say little: 5 % of the best token's probability.
TEST_F(SamplingDistributionTest, ADistributionThatIsSlightlyWrongIsRejected) {
  const SamplingParams plain;
  std::vector<double> wrong = SamplingReference(ToVector(logits_), plain, state_).probabilities();
  double& best = *std::max_element(wrong.begin(), wrong.end());
  const double moved = best * 0.05 + 0.02;
  best -= moved;
  for (double& p : wrong) p += moved / static_cast<double>(kVocab);
  EXPECT_GT(OverLimit(Draw(logits_, plain, state_), wrong), 1);
}

// Pairs of draws whose keys differ in one part are independent: the table of pairs is the product
// of its margins.
TEST_F(SamplingDistributionTest, DrawsOfNeighbouringKeysAreIndependent) {
  constexpr int64_t kBins = 6;
  const Tensor logits = Random({1, kBins}, 3, 0.7f);
  const auto token = [&](uint64_t seed, int64_t position, int32_t choice) {
    SamplingParams params;
    params.seed = seed;
    params.choice = choice;
    SamplingRow row;
    row.params = &params;
    row.position = position;
    std::vector<int32_t> tokens(1);
    std::vector<float> logprobs(1);
    cpu::Sampling(Pool(), logits, {&row, 1}, {FromVector(tokens), FromVector(logprobs), {}, {}});
    return static_cast<size_t>(tokens[0]);
  };
  for (int part = 0; part < 3; ++part) {
    std::vector<int64_t> pairs(kBins * kBins);
    std::vector<double> first(kBins);
    std::vector<double> second(kBins);
    for (int64_t i = 0; i < kDraws; ++i) {
      const auto seed = static_cast<uint64_t>(part == 0 ? 2 * i : 7);
      const int64_t position = part == 1 ? 2 * i : 100 + (part == 0 ? 0 : i);
      const size_t a = token(seed, position, 0);
      const size_t b =
          token(seed + (part == 0 ? 1 : 0), position + (part == 1 ? 1 : 0), part == 2 ? 1 : 0);
      ++pairs[a * kBins + b];
      ++first[a];
      ++second[b];
    }
    std::vector<double> expected;
    for (double a : first) {
      for (double b : second) expected.push_back(a * b / static_cast<double>(kDraws));
    }
    EXPECT_LE(ChiSquaredOverLimit(pairs, expected, 2 * kBins - 1), 1) << "part " << part;
  }
}

}  // namespace
}  // namespace penstock
