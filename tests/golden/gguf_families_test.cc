// The tiny models of the families as GGUF files that PyPI gguf wrote (make_gguf_families.py): the
// same configuration, the same greedy ids as transformers has, and the bits of the safetensors.
#include <fstream>

#include "core/io/model_file.h"
#include "core/kernels/cpu_ops.h"
#include "tests/support/drive.h"
#include "tests/support/families.h"
#include "tests/support/golden_json.h"
#include "tests/support/model_stage.h"

namespace penstock::testing {
namespace {

class GgufFamiliesTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    name_ = GetParam();
    absl::StatusOr<ModelFile> model = OpenModel(FamilyFolder(name_) + ".gguf");
    ASSERT_TRUE(IsOk(model));
    gguf_ = *std::move(model);
    golden_ = ReadGolden("families/" + name_ + "/reference.json");
  }

  Answer Generate(const ModelConfig& config, const WeightSource& weights) {
    CpuOps ops(Pool());
    ModelStage stage(config, weights, {}, ops);
    std::vector<Driven> sequences(1);
    golden_["prompt"].get_to(sequences[0].prompt);
    Drive(stage, sequences, golden_["answer"].size(), config.context_length);
    return sequences[0].answer;
  }

  std::string name_;
  ModelFile gguf_;
  nlohmann::json golden_;
};

TEST_P(GgufFamiliesTest, HasTheConfigurationOfTheFolder) {
  const ModelConfig& config = gguf_.config;
  const ModelConfig folder = OpenFamily(name_).config;
  EXPECT_EQ(config.architecture, name_.starts_with("qwen") ? name_ : "llama");
  EXPECT_EQ(config.hidden_size, folder.hidden_size);
  EXPECT_EQ(config.intermediate_size, folder.intermediate_size);
  EXPECT_EQ(config.num_layers, folder.num_layers);
  EXPECT_EQ(config.num_heads, folder.num_heads);
  EXPECT_EQ(config.num_kv_heads, folder.num_kv_heads);
  EXPECT_EQ(config.head_dim, folder.head_dim);
  EXPECT_EQ(config.vocab_size, folder.vocab_size);
  EXPECT_EQ(config.context_length, folder.context_length);
  EXPECT_EQ(config.rms_norm_eps, folder.rms_norm_eps);
  EXPECT_EQ(config.rope_theta, folder.rope_theta);
  EXPECT_EQ(config.sliding_window, folder.sliding_window);
  EXPECT_EQ(config.qkv_bias, folder.qkv_bias);
  EXPECT_EQ(config.qk_norm, folder.qk_norm);
  EXPECT_EQ(config.tied_embeddings, folder.tied_embeddings);
  if (name_ == "llama3") {
    EXPECT_EQ(config.rope_scaling.type, RopeScaling::Type::kFactors);
  } else {
    EXPECT_EQ(config.rope_scaling.type, folder.rope_scaling.type);
    EXPECT_EQ(config.rope_scaling.factor, folder.rope_scaling.factor);
  }
}

TEST_P(GgufFamiliesTest, GivesTheAnswerOfTheFolder) {
  const Family folder = OpenFamily(name_);
  const Answer expected = Generate(folder.config, *folder.weights);
  const Answer answer = Generate(gguf_.config, *gguf_.weights);
  EXPECT_EQ(answer.tokens, golden_["answer"].get<std::vector<int32_t>>());
  ASSERT_EQ(answer.logprobs.size(), expected.logprobs.size());
  // Llama 3's frequencies are divided by rounded factors, the others are the same numbers.
  const float tolerance = name_ == "llama3" ? 1e-4f : 0.0f;
  for (size_t i = 0; i < expected.logprobs.size(); ++i) {
    EXPECT_NEAR(answer.logprobs[i], expected.logprobs[i], tolerance) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GgufFamiliesTest,
                         ::testing::Values("llama3", "llama_linear", "mistral", "qwen2", "qwen3"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace penstock::testing
