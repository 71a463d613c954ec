#include "core/model/model_config.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

ModelConfig SmallConfig() {
  ModelConfig config;
  config.architecture = "llama";
  config.hidden_size = 576;
  config.intermediate_size = 1536;
  config.num_layers = 30;
  config.num_heads = 9;
  config.num_kv_heads = 3;
  config.head_dim = 64;
  config.vocab_size = 49152;
  config.context_length = 8192;
  return config;
}

TEST(ModelConfigTest, SizesOfTheProjections) {
  const ModelConfig config = SmallConfig();
  EXPECT_EQ(config.q_size(), 576);
  EXPECT_EQ(config.kv_size(), 192);
  EXPECT_EQ(config.qkv_size(), 960);
}

TEST(ModelConfigTest, AcceptsRealModels) {
  EXPECT_TRUE(IsOk(Validate(SmallConfig())));
  ModelConfig large = SmallConfig();  // 405 billion parameters
  large.hidden_size = 16384;
  large.intermediate_size = 53248;
  large.num_layers = 126;
  large.num_heads = 128;
  large.num_kv_heads = 8;
  large.head_dim = 128;
  large.vocab_size = 128256;
  large.context_length = 131072;
  large.rope_theta = 500000.0f;
  EXPECT_TRUE(IsOk(Validate(large)));
}

TEST(ModelConfigTest, EverySizeIsBounded) {
  const struct {
    const char* field;
    int64_t ModelConfig::*value;
    int64_t max;
  } fields[] = {
      {"hidden_size", &ModelConfig::hidden_size, 1 << 20},
      {"intermediate_size", &ModelConfig::intermediate_size, 1 << 22},
      {"num_layers", &ModelConfig::num_layers, 4096},
      {"num_heads", &ModelConfig::num_heads, 4096},
      {"num_kv_heads", &ModelConfig::num_kv_heads, 4096},
      {"head_dim", &ModelConfig::head_dim, 512},
      {"vocab_size", &ModelConfig::vocab_size, 1 << 24},
      {"context_length", &ModelConfig::context_length, 1 << 26},
  };
  for (const auto& field : fields) {
    for (const int64_t value : {int64_t{0}, int64_t{-1}, field.max + 1, INT64_MAX, INT64_MIN}) {
      ModelConfig config = SmallConfig();
      config.*field.value = value;
      EXPECT_TRUE(Fails(Validate(config), absl::StatusCode::kInvalidArgument,
                        {field.field, std::to_string(value), std::to_string(field.max)}));
    }
    ModelConfig config = SmallConfig();
    config.num_heads = 4096;  // so that num_kv_heads may be as large
    config.num_kv_heads = 1;
    config.*field.value = field.max;
    EXPECT_TRUE(IsOk(Validate(config))) << field.field;
  }
}

TEST(ModelConfigTest, HeadsShareKvHeadsEvenly) {
  ModelConfig config = SmallConfig();
  config.num_kv_heads = 4;
  EXPECT_TRUE(Fails(Validate(config), absl::StatusCode::kInvalidArgument,
                    {"num_heads is 9", "multiple of num_kv_heads (4)"}));
}

TEST(ModelConfigTest, HeadDimIsEven) {
  ModelConfig config = SmallConfig();
  config.head_dim = 63;
  EXPECT_TRUE(
      Fails(Validate(config), absl::StatusCode::kInvalidArgument, {"head_dim is 63", "even"}));
}

TEST(ModelConfigTest, EpsilonAndThetaAreFiniteAndPositive) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const float value : {0.0f, -1e-5f, kInfinity, -kInfinity, kNan}) {
    ModelConfig config = SmallConfig();
    config.rms_norm_eps = value;
    EXPECT_TRUE(Fails(Validate(config), absl::StatusCode::kInvalidArgument, {"rms_norm_eps is "}));
    config = SmallConfig();
    config.rope_theta = value;
    EXPECT_TRUE(Fails(Validate(config), absl::StatusCode::kInvalidArgument, {"rope_theta is "}));
  }
}

}  // namespace
}  // namespace penstock
