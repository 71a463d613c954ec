#include "core/kernels/sampling.h"

#include <algorithm>
#include <numeric>

#include "core/kernels/philox.h"
#include "tests/support/tensors.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

struct Drawn {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
};

Drawn Sample(const Tensor& logits, const std::vector<SamplingRow>& rows) {
  Drawn drawn{std::vector<int32_t>(rows.size(), -1), std::vector<float>(rows.size(), NAN)};
  cpu::Sampling(Pool(), logits, rows, FromVector(drawn.tokens), FromVector(drawn.logprobs));
  return drawn;
}

SamplingRow Row(float temperature, int32_t top_k, float top_p, uint64_t seed, int64_t position) {
  SamplingRow row;
  row.params.temperature = temperature;
  row.params.top_k = top_k;
  row.params.top_p = top_p;
  row.params.seed = seed;
  row.position = position;
  return row;
}

// The answers published with the Random123 library for philox4x32-10.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(Philox({0, 0, 0, 0}, 0), (PhiloxWords{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(Philox({ones, ones, ones, ones}, 0xffffffffffffffff),
            (PhiloxWords{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822),
            (PhiloxWords{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, GumbelStaysInItsBounds) {
  EXPECT_GT(Gumbel(0), kGumbelMin);
  EXPECT_LT(Gumbel(0xffffffff), kGumbelMax);
}

TEST(Sampling, GreedyTakesTheLowestIdAmongEquals) {
  Tensor logits = Random({2, 1000}, 1);
  auto* rows = static_cast<float*>(logits.raw());
  rows[300] = rows[17] = 50.0f;
  rows[1000 + 999] = 60.0f;
  const Drawn drawn = Sample(logits, {Row(0, 0, 1, 1, 5), Row(0, 40, 0.1f, 2, 6)});
  EXPECT_EQ(drawn.tokens, (std::vector<int32_t>{17, 999}));
}

TEST(Sampling, LogprobIsOfTheModelsOwnDistribution) {
  const int64_t vocab = 49152;
  const Tensor logits = Random({3, vocab}, 4, 5.0f);
  const Drawn drawn =
      Sample(logits, {Row(0, 0, 1, 1, 5), Row(0.3f, 5, 0.5f, 2, 6), Row(3.0f, 0, 1, 3, 7)});
  for (size_t r = 0; r < 3; ++r) {
    const std::vector<float> row = ToVector(logits.Slice(static_cast<int64_t>(r), 1));
    const float top = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (float logit : row) sum += std::exp(static_cast<double>(logit) - top);
    const double expected = row[static_cast<size_t>(drawn.tokens[r])] - top - std::log(sum);
    EXPECT_NEAR(drawn.logprobs[r], expected, 2e-5) << r;
    EXPECT_NEAR(cpu::LogSumExp(row, top), cpu::LogSumExpReference(row, top), 2e-6);
  }
}

// The 0.999 quantile of the chi-squared distribution (Wilson and Hilferty's approximation).
double ChiSquaredLimit(double degrees) {
  const double a = 2.0 / (9.0 * degrees);
  return degrees * std::pow(1.0 - a + 3.09 * std::sqrt(a), 3);
}

// Draws 40,000 times and holds the counts against the distribution that the contract names.
void CheckDistribution(float temperature, int32_t top_k, float top_p) {
  const int64_t vocab = 24;
  const int64_t draws = 40000;
  Tensor logits = Random({1, vocab}, 9, 1.5f);
  const std::vector<float> row = ToVector(logits);

  std::vector<size_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return row[a] > row[b]; });
  if (top_k > 0) order.resize(static_cast<size_t>(top_k));
  std::vector<double> weight;
  for (size_t id : order) weight.push_back(std::exp(row[id] / temperature));
  double mass = std::accumulate(weight.begin(), weight.end(), 0.0);
  double sum = 0;
  size_t kept = 0;
  while (kept < order.size() && sum < top_p * mass) sum += weight[kept++];
  mass = sum;

  std::vector<int64_t> counts(static_cast<size_t>(vocab));
  for (int64_t i = 0; i < draws; ++i) {
    const Drawn drawn = Sample(logits, {Row(temperature, top_k, top_p, 77, i)});
    ++counts[static_cast<size_t>(drawn.tokens[0])];
  }
  double chi_squared = 0;
  int64_t seen = 0;
  for (size_t i = 0; i < kept; ++i) {
    const double expected = weight[i] / mass * static_cast<double>(draws);
    const double difference = static_cast<double>(counts[order[i]]) - expected;
    chi_squared += difference * difference / expected;
    seen += counts[order[i]];
  }
  EXPECT_EQ(seen, draws) << "a token outside the kept ones was drawn";
  EXPECT_LE(chi_squared, ChiSquaredLimit(std::max<double>(1, static_cast<double>(kept) - 1)))
      << kept << " kept";
}

TEST(Sampling, DrawsFromTheSoftmax) { CheckDistribution(1.0f, 0, 1.0f); }
TEST(Sampling, DrawsFromTheTemperedSoftmax) { CheckDistribution(0.6f, 0, 1.0f); }
TEST(Sampling, DrawsFromTheTopK) { CheckDistribution(1.3f, 5, 1.0f); }
TEST(Sampling, DrawsFromTheNucleus) { CheckDistribution(1.0f, 0, 0.7f); }
TEST(Sampling, TopPCutsWhatTopKLeft) { CheckDistribution(1.0f, 8, 0.8f); }
TEST(Sampling, ATinyTopPKeepsOneToken) { CheckDistribution(1.0f, 0, 1e-6f); }

TEST(Sampling, ARowDependsOnNothingButItself) {
  const Tensor logits = Random({9, 500}, 12, 2.0f);
  std::vector<SamplingRow> rows;
  for (int64_t r = 0; r < 9; ++r) {
    rows.push_back(Row(0.9f, r % 3 == 0 ? 50 : 0, r % 2 == 0 ? 0.9f : 1.0f,
                       static_cast<uint64_t>(r), 100 + r));
  }
  const Drawn together = Sample(logits, rows);
  for (size_t r = 0; r < 9; ++r) {
    const Drawn alone = Sample(logits.Slice(static_cast<int64_t>(r), 1), {rows[r]});
    EXPECT_EQ(alone.tokens[0], together.tokens[r]);
    EXPECT_EQ(alone.logprobs[0], together.logprobs[r]);
  }
}

TEST(Sampling, SeedChoiceAndPositionEachChangeTheDraw) {
  const Tensor logits = Make(DataType::kF32, {1, 10000});
  std::fill_n(static_cast<float*>(Tensor(logits).raw()), 10000, 0.0f);
  const auto token = [&](SamplingRow row) { return Sample(logits, {row}).tokens[0]; };
  const SamplingRow base = Row(1.0f, 0, 1.0f, 5, 6);
  SamplingRow other_choice = base;
  other_choice.params.choice = 1;
  EXPECT_EQ(token(base), token(base));
  EXPECT_NE(token(base), token(Row(1.0f, 0, 1.0f, 6, 6)));
  EXPECT_NE(token(base), token(Row(1.0f, 0, 1.0f, 5, 7)));
  EXPECT_NE(token(base), token(other_choice));
}

// top_p must be exact also when the nucleus is most of a flat vocabulary.
TEST(Sampling, AFlatNucleusIsCutAtItsPlace) {
  const Tensor logits = Make(DataType::kF32, {1, 4096});
  std::fill_n(static_cast<float*>(Tensor(logits).raw()), 4096, 1.0f);
  for (int64_t i = 0; i < 2000; ++i) {
    EXPECT_LT(Sample(logits, {Row(1.0f, 0, 0.5f, 3, i)}).tokens[0], 2049);
  }
}

}  // namespace
}  // namespace penstock
