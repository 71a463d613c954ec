#include "core/model/rope_frequencies.h"

#include <cmath>

namespace penstock {
namespace {

// Llama 3.1: a frequency that turned fully many times within the first training's context stays,
// one that never did is divided by the factor, and those between are blended by how often they did.
float ScaleLlama3(const RopeScaling& scaling, float frequency) {
  const auto context = static_cast<double>(scaling.original_context);
  const auto longest = static_cast<float>(context / scaling.low_freq_factor);
  const auto shortest = static_cast<float>(context / scaling.high_freq_factor);
  const float wavelength = 1.0f / frequency * static_cast<float>(2 * M_PI);
  if (wavelength < shortest) return frequency;
  if (wavelength > longest) return frequency / scaling.factor;
  const float turns = 1.0f / wavelength * static_cast<float>(context);
  const float blend =
      (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1.0f - blend) * frequency / scaling.factor + blend * frequency;
}

}  // namespace

std::vector<float> RopeFrequencies(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  std::vector<float> frequencies;
  for (int64_t i = 0; i < config.head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.head_dim);
    float frequency = 1.0f / std::pow(config.rope_theta, exponent);
    switch (scaling.type) {
      case RopeScaling::Type::kNone:
        break;
      case RopeScaling::Type::kLinear:
        frequency /= scaling.factor;
        break;
      case RopeScaling::Type::kLlama3:
        frequency = ScaleLlama3(scaling, frequency);
        break;
      case RopeScaling::Type::kFactors:
        frequency /= scaling.factors[static_cast<size_t>(i)];
        break;
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

}  // namespace penstock
