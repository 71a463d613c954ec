#include "core/model/rope_frequencies.h"

#include <gtest/gtest.h>

#include <cmath>

namespace penstock {
namespace {

ModelConfig Config(int64_t head_dim, float theta) {
  ModelConfig config;
  config.head_dim = head_dim;
  config.rope_theta = theta;
  return config;
}

double Plain(const ModelConfig& config, size_t i) {
  return std::pow(static_cast<double>(config.rope_theta),
                  -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
}

// Float32 rounds a power, a quotient and a few products.
void ExpectNear(float value, double expected) {
  EXPECT_NEAR(value, expected, 4e-7 * expected) << value;
}

TEST(RopeFrequencies, ArePowersOfTheta) {
  for (const int64_t head_dim : {2, 64, 96, 128}) {
    const ModelConfig config = Config(head_dim, 10000.0f);
    const std::vector<float> frequencies = RopeFrequencies(config);
    ASSERT_EQ(static_cast<int64_t>(frequencies.size()), head_dim / 2);
    EXPECT_EQ(frequencies[0], 1.0f);
    for (size_t i = 0; i < frequencies.size(); ++i) ExpectNear(frequencies[i], Plain(config, i));
  }
}

TEST(RopeFrequencies, LinearScalingDividesAll) {
  ModelConfig config = Config(64, 10000.0f);
  config.rope_scaling.type = RopeScaling::Type::kLinear;
  config.rope_scaling.factor = 4.0f;
  const std::vector<float> frequencies = RopeFrequencies(config);
  for (size_t i = 0; i < frequencies.size(); ++i) ExpectNear(frequencies[i], Plain(config, i) / 4);
}

// Llama 3.1: theta 500000, head dim 128, factor 8 over 8192 positions.
TEST(RopeFrequencies, Llama3ScalingBlendsByWavelength) {
  ModelConfig config = Config(128, 500000.0f);
  config.rope_scaling.type = RopeScaling::Type::kLlama3;
  config.rope_scaling.factor = 8.0f;
  const std::vector<float> frequencies = RopeFrequencies(config);
  int kept = 0;
  int blended = 0;
  int divided = 0;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double plain = Plain(config, i);
    const double turns = 8192 * plain / (2 * M_PI);  // within the first training's context
    const double share = std::min(std::max((turns - 1.0) / (4.0 - 1.0), 0.0), 1.0);
    // The blend's share comes from a difference of numbers near each other.
    EXPECT_NEAR(frequencies[i], (1 - share) * plain / 8 + share * plain, 2e-6 * plain) << i;
    (share == 1 ? kept : share == 0 ? divided : blended) += 1;
  }
  EXPECT_GT(kept, 25);
  EXPECT_GT(blended, 3);
  EXPECT_GT(divided, 20);
}

// What a GGUF file of Llama 3.1 says: one divisor a frequency.
TEST(RopeFrequencies, FactorsDivideEachItsOwn) {
  ModelConfig config = Config(8, 10000.0f);
  config.rope_scaling.type = RopeScaling::Type::kFactors;
  config.rope_scaling.factors = {1.0f, 2.0f, 5.5f, 8.0f};
  const std::vector<float> frequencies = RopeFrequencies(config);
  for (size_t i = 0; i < 4; ++i) {
    ExpectNear(frequencies[i],
               Plain(config, i) / static_cast<double>(config.rope_scaling.factors[i]));
  }
}

}  // namespace
}  // namespace penstock
