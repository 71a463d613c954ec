// The packaged model, written as Hugging Face folders by our own code, gives what the GGUF gives:
// the same tokens, and the same bits of their log-probabilities, since every weight has the same
// float32 value. bf16 cannot hold the values of the GGUF's blocks: that copy is held against a
// float32 copy of the rounded values.
#include "core/io/model_file.h"
#include "core/kernels/cpu_ops.h"
#include "tests/support/drive.h"
#include "tests/support/golden_json.h"
#include "tests/support/hf_copy.h"
#include "tests/support/model_stage.h"

namespace penstock::testing {
namespace {

// The sanitizers make a layer some twenty times as dear: the first ones are enough there.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kLayersAtMost = 2;
#else
constexpr int64_t kLayersAtMost = 1000;
#endif
constexpr int64_t kContext = 256;
constexpr size_t kPrompts = 4;
constexpr size_t kTokens = 8;

class SafetensorsCopiesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<ModelFile> model = OpenModel(PENSTOCK_TEST_MODEL);
    ASSERT_TRUE(IsOk(model)) << "configure with -DPENSTOCK_MODEL=$(scripts/fetch-model)";
    gguf_ = *std::move(model);
    gguf_.config.num_layers = std::min(gguf_.config.num_layers, kLayersAtMost);
    gguf_.config.context_length = kContext;
    const nlohmann::json golden = ReadGolden("smollm2_generation.json");
    for (const auto& entry : golden["cases"]) {
      const auto ids = entry["prompt_ids"].get<std::vector<int32_t>>();
      if (ids.size() < 2 || ids.size() > 100 || prompts_.size() == kPrompts) continue;
      prompts_.push_back(ids);
    }
    ASSERT_EQ(prompts_.size(), kPrompts);
  }

  // Greedy answers to all prompts, side by side.
  std::vector<Answer> Answers(const ModelFile& model) {
    CpuOps ops(Pool());
    ModelLimits limits;
    limits.max_samples = static_cast<int64_t>(kPrompts);
    limits.max_tokens = static_cast<int64_t>(kPrompts) * 100;
    ModelStage stage(model.config, *model.weights, limits, ops);
    std::vector<Driven> sequences;
    for (const std::vector<int32_t>& prompt : prompts_) {
      sequences.emplace_back();
      sequences.back().prompt = prompt;
    }
    Drive(stage, sequences, kTokens, kContext);
    std::vector<Answer> answers;
    for (const Driven& sequence : sequences) answers.push_back(sequence.answer);
    return answers;
  }

  std::vector<Answer> AnswersOfCopy(const HfCopyOptions& options) {
    const TempFolder folder;
    WriteHfFolder(folder, gguf_.config, *gguf_.weights, options);
    const absl::StatusOr<ModelFile> copy = OpenModel(folder.path());
    EXPECT_TRUE(IsOk(copy));
    if (!copy.ok()) return {};
    EXPECT_EQ(copy->config.num_layers, gguf_.config.num_layers);
    EXPECT_EQ(copy->config.rms_norm_eps, gguf_.config.rms_norm_eps);
    EXPECT_EQ(copy->config.tied_embeddings, gguf_.config.tied_embeddings);
    return Answers(*copy);
  }

  ModelFile gguf_;
  std::vector<std::vector<int32_t>> prompts_;
};

TEST_F(SafetensorsCopiesTest, F32InShardsGivesTheBitsOfTheGguf) {
  const std::vector<Answer> expected = Answers(gguf_);
  ASSERT_EQ(expected.size(), kPrompts);
  EXPECT_EQ(expected[0].tokens.size(), kTokens);
  EXPECT_TRUE(AnswersOfCopy({.shards = 3}) == expected);
}

TEST_F(SafetensorsCopiesTest, Bf16InOneFileGivesTheBitsOfF32OfTheSameValues) {
  const std::vector<Answer> bf16 = AnswersOfCopy({.type = DataType::kBF16});
  ASSERT_EQ(bf16.size(), kPrompts);
  EXPECT_TRUE(AnswersOfCopy({.round_to_bf16 = true}) == bf16);
}

}  // namespace
}  // namespace penstock::testing
