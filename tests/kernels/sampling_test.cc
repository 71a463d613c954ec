#include "core/kernels/sampling.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

#include "core/base/philox.h"
#include "tests/support/sample_on.h"
#include "tests/support/sampling_reference.h"

namespace penstock {
namespace {

using namespace penstock::testing;  // NOLINT(google-build-using-namespace)

// Each test runs on every backend.
class SamplingTest : public ::testing::TestWithParam<Backend> {
 public:
  static Backend backend() { return GetParam(); }
};

struct Drawn {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::vector<int32_t> top_tokens;  // [rows, top]
  std::vector<float> top_logprobs;
};

Drawn Sample(const Tensor& logits, const std::vector<SamplingRow>& rows, int64_t top = 0,
             ThreadPool& pool = Pool()) {
  const size_t cells = rows.size() * static_cast<size_t>(top);
  Drawn drawn{std::vector<int32_t>(rows.size(), -7), std::vector<float>(rows.size(), NAN),
              std::vector<int32_t>(cells, -7), std::vector<float>(cells, 7.0f)};
  SamplingOutput out{FromVector(drawn.tokens), FromVector(drawn.logprobs), {}, {}};
  if (top > 0) {
    const Shape shape({static_cast<int64_t>(rows.size()), top});
    out.top_tokens = FromVector(drawn.top_tokens).Reshape(shape);
    out.top_logprobs = FromVector(drawn.top_logprobs).Reshape(shape);
  }
  SampleOn(SamplingTest::backend(), logits, rows, out, pool);
  return drawn;
}

SamplingParams Params(float temperature, int32_t top_k = 0, float top_p = 1, uint64_t seed = 1) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.seed = seed;
  return params;
}

SamplingRow Row(const SamplingParams& params, int64_t position = 5) {
  SamplingRow row;
  row.params = &params;
  row.position = position;
  return row;
}

Tensor Logits(std::vector<float> values) {
  const Tensor tensor = Make(DataType::kF32, {1, static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), static_cast<float*>(Tensor(tensor).raw()));
  return tensor;
}

// The token of one row with a history.
int32_t Token(const Tensor& logits, const SamplingParams& params, const SequenceState& state) {
  return Sample(logits, {state.Row(params)}).tokens[0];
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

TEST_P(SamplingTest, GreedyTakesTheLowestIdAmongEquals) {
  Tensor logits = Random({2, 1000}, 1);
  auto* rows = static_cast<float*>(logits.raw());
  rows[300] = rows[17] = 50.0f;
  rows[1000 + 999] = 60.0f;
  const SamplingParams greedy = Params(0);
  const SamplingParams nucleus = Params(0, 40, 0.1f, 2);
  const Drawn drawn = Sample(logits, {Row(greedy), Row(nucleus, 6)});
  EXPECT_EQ(drawn.tokens, (std::vector<int32_t>{17, 999}));
}

TEST_P(SamplingTest, LogprobIsOfTheModelsOwnDistribution) {
  const int64_t vocab = 49152;
  const Tensor logits = Random({3, vocab}, 4, 5.0f);
  SamplingParams biased = Params(3.0f, 0, 1, 3);
  for (int32_t id = 0; id < 5000; ++id) biased.logit_bias.push_back({id, 100.0f});
  const SamplingParams greedy = Params(0);
  const SamplingParams cut = Params(0.3f, 5, 0.5f);
  const Drawn drawn = Sample(logits, {Row(greedy), Row(cut, 6), Row(biased, 7)});
  EXPECT_LT(drawn.tokens[2], 5000);
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

TEST_P(SamplingTest, TheLikeliestTokensComeBestFirstTheLowerIdAmongEquals) {
  const Tensor logits = Logits({1, 5, 3, 5, -2, 3});
  SamplingParams params = Params(0.7f);
  params.logit_bias = {{4, 50.0f}};  // changes what is sampled, not what is told
  SamplingRow row = Row(params);
  row.top = 5;
  const Drawn drawn = Sample(logits, {row}, 7);
  EXPECT_EQ(drawn.tokens[0], 4);
  EXPECT_EQ(drawn.top_tokens, (std::vector<int32_t>{1, 3, 2, 5, 0, -7, -7}));
  const double log_sum = std::log(2 * std::exp(5) + 2 * std::exp(3) + std::exp(1) + std::exp(-2));
  EXPECT_NEAR(drawn.logprobs[0], -2 - log_sum, 1e-6);
  const float expected[] = {5, 5, 3, 3, 1};
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(drawn.top_logprobs[i], expected[i] - log_sum, 1e-6);
  row.top = 100;  // more than there are
  EXPECT_EQ(Sample(logits, {row}, 6).top_tokens, (std::vector<int32_t>{1, 3, 2, 5, 0, 4}));
}

TEST_P(SamplingTest, ATargetIsToldAndNotSampled) {
  const Tensor logits = Logits({1, 5, 3, 5, -2, 3});
  const SamplingParams params = Params(1.0f);
  SamplingRow row = Row(params);
  row.top = 1;
  for (int32_t target = 0; target < 6; ++target) {
    row.target = target;
    const Drawn drawn = Sample(logits, {row}, 1);
    EXPECT_EQ(drawn.tokens[0], target);
    EXPECT_EQ(drawn.top_tokens[0], 1);
    EXPECT_NEAR(drawn.logprobs[0] - drawn.top_logprobs[0],
                ToVector(logits)[static_cast<size_t>(target)] - 5, 1e-6);
  }
}

// Every parameter at once and alone, at random: the very token that the float64 reference draws.
TEST_P(SamplingTest, GivesTheTokensOfTheReference) {
  std::mt19937 random(5);
  const auto chance = [&](uint32_t one_in) { return random() % one_in == 0; };
  const auto real = [&](double low, double high) {
    return static_cast<float>(low + (high - low) * static_cast<double>(random()) / 4294967296.0);
  };
  int greedy = 0;
  int masked = 0;
  for (int trial = 0; trial < 5000; ++trial) {
    const int32_t vocab = 2 + static_cast<int32_t>(random() % 40);
    const auto token = [&] { return static_cast<int32_t>(random()) & 0x7fffffff; };
    const Tensor logits = Random({1, vocab}, random(), 2.0f);
    std::vector<int32_t> prompt(1 + random() % 8);
    std::vector<int32_t> answer(random() % 12);
    for (int32_t& id : prompt) id = token() % vocab;
    for (int32_t& id : answer) id = token() % vocab;
    const SequenceState state(prompt, answer);

    SamplingParams params = Params(chance(4) ? 0.0f : real(0.2, 3), 0, 1, random());
    params.choice = static_cast<int32_t>(random() % 3);
    if (chance(3)) params.top_k = 1 + static_cast<int32_t>(random() % 50);
    if (chance(3)) params.top_p = real(0.01, 1);
    if (chance(3)) params.min_p = real(0, 0.5);
    if (chance(3)) params.repetition_penalty = real(0.5, 2);
    if (chance(3)) params.presence_penalty = real(-2, 2);
    if (chance(3)) params.frequency_penalty = real(-2, 2);
    if (chance(3)) {
      for (int32_t id = 0; id < vocab; ++id) {
        if (chance(4)) params.logit_bias.push_back({id, real(-5, 5)});
      }
    }
    if (chance(2)) {
      params.min_tokens = static_cast<int64_t>(random() % 14);
      for (int32_t id = 0; id < vocab; ++id) {
        if (chance(5)) params.stop_ids.push_back(id);
      }
    }
    while (chance(2)) {
      std::vector<int32_t> word = {token() % vocab};  // often the end of the history, one more
      const size_t prefix = random() % 4;
      if (prefix < state.history.size()) {
        word.insert(word.begin(), state.history.end() - static_cast<int64_t>(prefix),
                    state.history.end());
      }
      if (word.size() > 1 && chance(4)) word[0] = token() % vocab;
      params.bad_words.push_back(word);
    }
    const int32_t expected = SamplingReference(ToVector(logits), params, state).Token();
    ASSERT_EQ(Token(logits, params, state), expected) << "trial " << trial;
    greedy += params.temperature == 0 ? 1 : 0;
    masked += expected == kNoToken ? 1 : 0;
  }
  EXPECT_GT(greedy, 500);
  EXPECT_GT(masked, 5);
}

// On vocabularies that are larger than any block, with cuts that keep few and almost all.
TEST_P(SamplingTest, GivesTheTokensOfTheReferenceOnALargeVocabulary) {
  const SequenceState state({1, 2, 3}, {4});
  for (int64_t trial = 0; trial < 240; ++trial) {
    const int64_t vocab = 6000 + 13 * trial;
    Tensor logits = Random({1, vocab}, static_cast<uint32_t>(trial), trial % 4 == 0 ? 0.1f : 2.5f);
    if (trial % 3 == 0) {  // many ties, also at the cuts
      auto* values = static_cast<float*>(logits.raw());
      for (int64_t i = 0; i < vocab; ++i) values[i] = std::round(values[i] * 4) / 4;
    }
    SamplingParams params =
        Params(0.4f + 0.1f * static_cast<float>(trial % 16), 0, 1, static_cast<uint64_t>(trial));
    if (trial % 10 == 9) params.temperature = 0.05f;  // most tokens are far below the best
    const int32_t top_k[] = {0, 30, 1500, 3000};
    const float top_p[] = {1, 0.3f, 0.9f, 0.9999999f};
    const float min_p[] = {0, 0, 0.001f, 0.2f};
    params.top_k = top_k[trial / 3 % 4];
    params.top_p = top_p[trial / 12 % 4];
    params.min_p = min_p[trial / 48 % 4];
    const int32_t expected = SamplingReference(ToVector(logits), params, state).Token();
    ASSERT_EQ(Token(logits, params, state), expected) << "trial " << trial;
  }
}

TEST_P(SamplingTest, StepsComeInTheirOrder) {
  const SequenceState state({1}, {0, 0});
  SamplingParams params = Params(0);
  // Bias, then repetition: (2 + 2) / 2 = 2 beats 1.9; repetition first would give 3.
  params.logit_bias = {{0, 2.0f}};
  params.repetition_penalty = 2.0f;
  EXPECT_EQ(Token(Logits({2, -9, 1.9f}), params, state), 0);
  EXPECT_EQ(Token(Logits({2, -9, 2.5f}), params, state), 2);
  // Repetition, then the others: 4 / 2 - 2 * 0.25 - 0.5 = 1; before it they would give 1.5.
  params.frequency_penalty = 0.25f;
  params.presence_penalty = 0.5f;
  EXPECT_EQ(Token(Logits({2, -9, 0.9f}), params, state), 0);
  EXPECT_EQ(Token(Logits({2, -9, 1.1f}), params, state), 2);
  // A bias does not bring back what is masked.
  params.logit_bias = {{0, 100.0f}};
  params.bad_words = {{0, 0}};
  EXPECT_EQ(Token(Logits({2, -9, 1.1f}), params, state), 2);
}

TEST_P(SamplingTest, PenaltiesTellThePromptFromTheAnswer) {
  const Tensor logits = Logits({3, 2.9f, 2.8f});
  const SequenceState prompt_only({0, 0, 0}, {});
  SamplingParams params = Params(0);
  params.presence_penalty = 2.0f;
  params.frequency_penalty = 2.0f;
  EXPECT_EQ(Token(logits, params, prompt_only), 0);
  EXPECT_EQ(Token(logits, params, SequenceState({0}, {0, 1})), 2);
  params = Params(0);
  params.repetition_penalty = 1.2f;
  EXPECT_EQ(Token(logits, params, prompt_only), 1);
  EXPECT_EQ(Token(logits, params, SequenceState({0}, {1})), 2);
  // Negative logits grow more negative.
  EXPECT_EQ(Token(Logits({-1, -1.1f, -1.3f}), params, SequenceState({0}, {})), 1);
  // Below 1 it rewards.
  params.repetition_penalty = 0.5f;
  EXPECT_EQ(Token(Logits({-1, 2, 3}), params, SequenceState({1}, {})), 1);
}

TEST_P(SamplingTest, StopIdsAreMaskedUntilMinTokens) {
  SamplingParams params = Params(0);
  params.stop_ids = {0, 2};
  params.min_tokens = 2;
  const Tensor logits = Logits({9, 1, 8});
  EXPECT_EQ(Token(logits, params, SequenceState({5, 5, 5}, {})), 1);
  EXPECT_EQ(Token(logits, params, SequenceState({5, 5, 5}, {1})), 1);
  EXPECT_EQ(Token(logits, params, SequenceState({5, 5, 5}, {1, 1})), 0);
}

TEST_P(SamplingTest, ABadWordIsNeverCompleted) {
  SamplingParams params = Params(0);
  const Tensor logits = Logits({9, 8, 7, 6});
  params.bad_words = {{0}};
  EXPECT_EQ(Token(logits, params, SequenceState({1}, {})), 1);
  params.bad_words = {{3, 2, 0}};
  EXPECT_EQ(Token(logits, params, SequenceState({2}, {})), 0);     // longer than the history
  EXPECT_EQ(Token(logits, params, SequenceState({3, 2}, {})), 1);  // begun in the prompt
  EXPECT_EQ(Token(logits, params, SequenceState({3}, {2})), 1);
  EXPECT_EQ(Token(logits, params, SequenceState({3}, {2, 1})), 0);
  EXPECT_EQ(Token(logits, params, SequenceState({2}, {2})), 0);
}

TEST_P(SamplingTest, TiesAtTheCutsGoToTheLowerId) {
  const Tensor logits = Logits({1, 2, 1, 2, 1, 2, 1, 2});
  for (uint64_t seed = 0; seed < 500; ++seed) {
    const SamplingParams top_k = Params(1, 3, 1, seed);
    const int32_t among_three = Sample(logits, {Row(top_k)}).tokens[0];
    EXPECT_TRUE(among_three == 1 || among_three == 3 || among_three == 5) << among_three;
    const SamplingParams top_p = Params(1, 4, 0.5f, seed);  // exactly half: two of four
    const int32_t among_two = Sample(logits, {Row(top_p)}).tokens[0];
    EXPECT_TRUE(among_two == 1 || among_two == 3) << among_two;
    SamplingParams min_p = Params(1, 0, 1, seed);
    min_p.min_p = 1.0f;  // as likely as the likeliest: all four
    EXPECT_EQ(Sample(logits, {Row(min_p)}).tokens[0] % 2, 1);
    min_p.min_p = 0.36f;  // exp(-1) = 0.368: all eight
    min_p.top_k = 5;
    EXPECT_LT(Sample(logits, {Row(min_p)}).tokens[0], 8);
  }
}

// top_p must be exact also when the nucleus is most of a flat vocabulary.
TEST_P(SamplingTest, AFlatNucleusIsCutAtItsPlace) {
  const Tensor logits = Logits(std::vector<float>(4096, 1.0f));
  const SamplingParams params = Params(1, 0, 0.5f, 3);
  for (int64_t i = 0; i < 200; ++i) {
    EXPECT_LT(Sample(logits, {Row(params, i)}).tokens[0], 2048);
  }
}

// NaN or an infinity anywhere in a row fails it; its neighbours keep every byte.
TEST_P(SamplingTest, ABrokenRowFailsAlone) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (int64_t vocab : {1, 3, 8, 100, 1000}) {
    const Tensor logits = Random({5, vocab}, 12, 2.0f);
    const SamplingParams greedy = Params(0);
    const SamplingParams drawn_params = Params(0.9f, 0, 0.9f, 8);
    SamplingRow told = Row(greedy, 3);
    told.target = 0;
    std::vector<SamplingRow> rows = {Row(greedy), Row(drawn_params), Row(drawn_params, 6), told,
                                     Row(greedy, 9)};
    for (SamplingRow& row : rows) row.top = 3;
    const Drawn sound = Sample(logits, rows, 3);
    for (float broken : {std::nanf(""), kInfinity, -kInfinity}) {
      for (size_t r = 0; r < 5; ++r) {
        for (int64_t at : {int64_t{0}, vocab / 2, vocab - 1}) {
          Tensor spoiled = Make(DataType::kF32, {5, vocab});
          std::memcpy(spoiled.raw(), logits.raw(), static_cast<size_t>(logits.bytes()));
          static_cast<float*>(spoiled.raw())[static_cast<int64_t>(r) * vocab + at] = broken;
          const Drawn drawn = Sample(spoiled, rows, 3);
          Drawn expected = sound;
          expected.tokens[r] = kNoToken;
          expected.logprobs[r] = 0;
          for (size_t i = r * 3; i < r * 3 + 3; ++i) {
            expected.top_tokens[i] = -7;
            expected.top_logprobs[i] = 7.0f;
          }
          EXPECT_EQ(drawn.tokens, expected.tokens);
          EXPECT_EQ(drawn.logprobs, expected.logprobs);
          EXPECT_EQ(drawn.top_tokens, expected.top_tokens);
          EXPECT_EQ(drawn.top_logprobs, expected.top_logprobs);
        }
      }
    }
  }
}

TEST_P(SamplingTest, ARowWhoseTokensAreAllMaskedFails) {
  for (float temperature : {0.0f, 1.0f}) {
    SamplingParams params = Params(temperature);
    params.bad_words = {{0}, {2}};
    params.stop_ids = {1};
    params.min_tokens = 1;
    const SequenceState begun({5}, {});
    EXPECT_EQ(Token(Logits({1, 2, 3}), params, begun), kNoToken);
    EXPECT_EQ(Token(Logits({1, 2, 3}), params, SequenceState({5}, {5})), 1);
    // Also where fewer are left than top_k and top_p would keep.
    params.top_k = 2;
    params.top_p = 0.9f;
    EXPECT_EQ(Token(Logits({1, 2, 3}), params, begun), kNoToken);
    EXPECT_EQ(Token(Logits({1, 2, 3}), params, SequenceState({5}, {5})), 1);
  }
}

TEST_P(SamplingTest, APenaltyThatOverflowsStaysFinite) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  SamplingParams params = Params(0);
  params.repetition_penalty = 1e-30f;
  params.frequency_penalty = 1e6f;
  params.logit_bias = {{0, kLargest}, {1, -kLargest}};
  // 0 and 1 overflow upwards and downwards; neither is masked, neither is a NaN.
  EXPECT_EQ(Token(Logits({kLargest, -kLargest, 5}), params, SequenceState({0, 1}, {})), 0);
  params.bad_words = {{0}, {2}};
  EXPECT_EQ(Token(Logits({kLargest, -kLargest, 5}), params, SequenceState({0, 1}, {1})), 1);
  params.temperature = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(Token(Logits({kLargest, -kLargest, 5}), params, SequenceState({0, 1}, {1})), 1);
  params.top_p = 0.5f;
  EXPECT_EQ(Token(Logits({kLargest, -kLargest, 5}), params, SequenceState({0, 1}, {1})), 1);
}

TEST_P(SamplingTest, ARowDependsOnNothingButItself) {
  constexpr int32_t kRows = 24;
  constexpr int64_t kVocab = 700;
  const Tensor logits = Random({kRows, kVocab}, 12, 2.0f);
  std::vector<SamplingParams> params;
  std::vector<SequenceState> states;
  for (int32_t r = 0; r < kRows; ++r) {
    SamplingParams one = Params(r % 5 == 0 ? 0.0f : 0.9f, r % 3 == 0 ? 50 : 0,
                                r % 2 == 0 ? 0.9f : 1.0f, static_cast<uint64_t>(r));
    if (r % 4 == 1) one.repetition_penalty = 1.3f;
    if (r % 4 == 2) one.frequency_penalty = 0.7f;
    if (r % 6 == 3) one.logit_bias = {{r, 5.0f}};
    if (r % 6 == 4) one.bad_words = {{r + 1}};
    if (r % 7 == 5) one.min_p = 0.1f;
    params.push_back(one);
    states.emplace_back(std::vector<int32_t>{r, r + 2}, std::vector<int32_t>(r % 9, r + 1));
  }
  std::vector<SamplingRow> rows;
  for (size_t r = 0; r < kRows; ++r) {
    rows.push_back(states[r].Row(params[r]));
    rows.back().top = static_cast<int32_t>(r % 5);
  }
  const Drawn together = Sample(logits, rows, 4);
  ThreadPool one_thread(1);
  const Drawn same = Sample(logits, rows, 4, one_thread);
  EXPECT_EQ(same.tokens, together.tokens);
  EXPECT_EQ(same.logprobs, together.logprobs);
  EXPECT_EQ(same.top_tokens, together.top_tokens);
  EXPECT_EQ(same.top_logprobs, together.top_logprobs);
  for (size_t r = 0; r < kRows; ++r) {
    const Drawn alone = Sample(logits.Slice(static_cast<int64_t>(r), 1), {rows[r]}, 4);
    EXPECT_EQ(alone.tokens[0], together.tokens[r]);
    EXPECT_EQ(alone.logprobs[0], together.logprobs[r]);
    EXPECT_TRUE(std::equal(alone.top_logprobs.begin(), alone.top_logprobs.end(),
                           together.top_logprobs.begin() + static_cast<int64_t>(r) * 4));
  }
}

// A GPU gives a row to one block, two or eight, by how many rows there are.
TEST_P(SamplingTest, ARowHasTheSameBitsInABatchOfAnySize) {
  constexpr int32_t kRows = 300;
  constexpr int64_t kVocab = 20001;
  const Tensor logits = Random({kRows, kVocab}, 21, 2.0f);
  std::vector<SamplingParams> params;
  for (int32_t r = 0; r < kRows; ++r) {
    const int32_t cut =
        r % 6;  // none, few, a nucleus, both, more than a list holds, a wide nucleus
    SamplingParams one =
        Params(r % 7 == 0 ? 0.0f
               : cut == 5 ? 4.0f
                          : 0.9f,
               cut == 1 || cut == 3 ? 50 : (cut == 4 ? 5000 : 0),
               cut == 2 || cut == 3 ? 0.9f : (cut == 5 ? 0.97f : 1.0f), static_cast<uint64_t>(r));
    if (r % 5 == 1) one.logit_bias = {{r, 5.0f}, {r + 7, -2.0f}};
    if (r % 11 == 5) one.min_p = 0.1f;
    params.push_back(one);
  }
  std::vector<SamplingRow> rows;
  for (size_t r = 0; r < kRows; ++r) {
    rows.push_back(Row(params[r]));
    rows.back().top = static_cast<int32_t>(r % 4);
  }
  const Drawn together = Sample(logits, rows, 3);
  for (const int64_t size : {1, 30, 100}) {
    for (int64_t first = 0; first + size <= (size == 1 ? 30 : kRows); first += size) {
      const auto begin = rows.begin() + first;
      const Drawn part = Sample(logits.Slice(first, size), {begin, begin + size}, 3);
      for (int64_t r = 0; r < size; ++r) {
        const auto at = static_cast<size_t>(first + r);
        ASSERT_EQ(part.tokens[static_cast<size_t>(r)], together.tokens[at]) << at << ", " << size;
        ASSERT_EQ(part.logprobs[static_cast<size_t>(r)], together.logprobs[at]) << at;
      }
      EXPECT_TRUE(std::equal(part.top_tokens.begin(), part.top_tokens.end(),
                             together.top_tokens.begin() + first * 3));
      EXPECT_TRUE(std::equal(part.top_logprobs.begin(), part.top_logprobs.end(),
                             together.top_logprobs.begin() + first * 3));
    }
  }
}

TEST_P(SamplingTest, SeedChoiceAndPositionEachChangeTheDraw) {
  const Tensor logits = Logits(std::vector<float>(10000, 0.0f));
  const auto token = [&](uint64_t seed, int32_t choice, int64_t position) {
    SamplingParams params = Params(1, 0, 1, seed);
    params.choice = choice;
    return Sample(logits, {Row(params, position)}).tokens[0];
  };
  EXPECT_EQ(token(5, 0, 6), token(5, 0, 6));
  EXPECT_NE(token(5, 0, 6), token(6, 0, 6));
  EXPECT_NE(token(5, 0, 6), token(5, 1, 6));
  EXPECT_NE(token(5, 0, 6), token(5, 0, 7));
  EXPECT_NE(token(5, 0, 6), token(5, 0, 6 + (int64_t{1} << 32)));
}

// Every way through the vocabulary of a large model, with all that can be asked for: what the CPU
// twin draws and tells.
TEST_P(SamplingTest, GivesWhatTheCpuTwinGives) {
  constexpr int64_t kVocab = 128256;
  constexpr size_t kRows = 48;
  constexpr int64_t kTop = 100;
  const Tensor logits = Random({kRows, kVocab}, 77, 3.0f);
  std::vector<SamplingParams> params;
  std::vector<SequenceState> states;
  for (size_t r = 0; r < kRows; ++r) {
    const int32_t top_k[] = {0, 50, 2048, 2049, 100000, 0};
    const float top_p[] = {1, 0.3f, 0.95f, 0.9999f};
    SamplingParams one = Params(r % 7 == 0 ? 0.0f : 0.25f * static_cast<float>(1 + r % 6),
                                top_k[r % 6], top_p[r / 6 % 4], r);
    if (r % 5 == 1) one.min_p = 0.01f;
    if (r % 4 == 1) one.repetition_penalty = 1.3f;
    if (r % 4 == 2) one.frequency_penalty = 0.7f;
    if (r % 3 == 1) one.logit_bias = {{5, 15.0f}, {100000, -3.0f}};
    if (r % 3 == 2) one.bad_words = {{4}, {1, 4}, {6}};
    params.push_back(one);
    std::vector<int32_t> answer(r + 1);
    for (size_t i = 0; i < answer.size(); ++i) {
      answer[i] = static_cast<int32_t>(i * 7919 % static_cast<size_t>(kVocab));
    }
    answer.back() = 1;
    states.emplace_back(std::vector<int32_t>{3, 1, 4, 1, 5}, answer);
  }
  std::vector<SamplingRow> rows;
  for (size_t r = 0; r < kRows; ++r) {
    rows.push_back(states[r].Row(params[r]));
    rows.back().top = r % 2 == 0 ? kTop : static_cast<int32_t>(r % 5);
    if (r % 8 == 7) rows.back().target = static_cast<int32_t>(r * 1000);
  }
  const Drawn drawn = Sample(logits, rows, kTop);
  Drawn twin = drawn;
  std::fill(twin.tokens.begin(), twin.tokens.end(), -9);
  const Shape shape({kRows, kTop});
  cpu::Sampling(
      Pool(), logits, rows,
      {FromVector(twin.tokens), FromVector(twin.logprobs),
       FromVector(twin.top_tokens).Reshape(shape), FromVector(twin.top_logprobs).Reshape(shape)});
  EXPECT_EQ(drawn.tokens, twin.tokens);
  EXPECT_EQ(drawn.top_tokens, twin.top_tokens);
  for (size_t i = 0; i < kRows; ++i) EXPECT_NEAR(drawn.logprobs[i], twin.logprobs[i], 2e-5);
  for (size_t i = 0; i < twin.top_logprobs.size(); ++i) {
    ASSERT_NEAR(drawn.top_logprobs[i], twin.top_logprobs[i], 2e-5) << i;
  }
  const Drawn again = Sample(logits, rows, kTop);
  EXPECT_EQ(again.tokens, drawn.tokens);
  EXPECT_EQ(again.logprobs, drawn.logprobs);
  EXPECT_EQ(again.top_logprobs, drawn.top_logprobs);
}

// More rows than one copy of their parameters carries, and more edits than it has room for.
TEST_P(SamplingTest, ManyRowsAndEdits) {
  constexpr int32_t kRows = 700;
  constexpr int32_t kVocab = 1000;
  const Tensor logits = Random({kRows, kVocab}, 5, 2.0f);
  std::vector<SamplingParams> params;
  for (int32_t r = 0; r < kRows; ++r) {
    SamplingParams one = Params(0.8f, 0, 1, static_cast<uint64_t>(r));
    for (int32_t id = 0; id < kVocab; ++id) one.logit_bias.push_back({id, id == r ? 60.f : 1.f});
    params.push_back(one);
  }
  std::vector<SamplingRow> rows;
  for (const SamplingParams& one : params) rows.push_back(Row(one));
  const Drawn drawn = Sample(logits, rows);
  for (int32_t r = 0; r < kRows; ++r) ASSERT_EQ(drawn.tokens[static_cast<size_t>(r)], r);
}

INSTANTIATE_TEST_SUITE_P(Backends, SamplingTest, ::testing::ValuesIn(Backends()),
                         [](const ::testing::TestParamInfo<Backend>& info) {
                           return info.param == Backend::kCpu ? "Cpu" : "Cuda";
                         });

}  // namespace
}  // namespace penstock
