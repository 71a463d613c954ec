// The packaged model, SmolLM2-135M-Instruct in Q4_1, read whole. The constants come from the
// gguf package of PyPI (0.19.0): GGUFReader and quants.dequantize.
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/io/gguf.h"
#include "core/tensor/dequantize.h"
#include "tests/support/status_matchers.h"

namespace penstock {
namespace {

class GgufPackagedTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string path = PENSTOCK_TEST_MODEL;
    ASSERT_FALSE(path.empty()) << "no model to test with: run scripts/fetch-model, then configure "
                                  "with -DPENSTOCK_MODEL=<the path it prints>";
    auto file = GgufFile::Open(path);
    ASSERT_TRUE(IsOk(file)) << "run scripts/fetch-model";
    file_ = *file;
  }
  static void TearDownTestSuite() { file_ = nullptr; }
  void SetUp() override { ASSERT_NE(file_, nullptr) << "run scripts/fetch-model"; }

  static std::vector<float> Values(std::string_view name) {
    const Tensor tensor = *file_->GetTensor(name);
    std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
    Dequantize(tensor.type(), tensor.raw(), tensor.num_elements(), values.data());
    return values;
  }
  static double Sum(const std::vector<float>& values) {
    double sum = 0;
    for (const float value : values) sum += value;
    return sum;
  }

  static std::shared_ptr<const GgufFile> file_;
};

std::shared_ptr<const GgufFile> GgufPackagedTest::file_;

TEST_F(GgufPackagedTest, Configuration) {
  const auto config = ReadGgufConfig(*file_);
  ASSERT_TRUE(IsOk(config));
  EXPECT_EQ(config->name, "Smollm2 135M 8k Lc100K Mix1 Ep2");
  EXPECT_EQ(config->num_layers, 30);
  EXPECT_EQ(config->hidden_size, 576);
  EXPECT_EQ(config->intermediate_size, 1536);
  EXPECT_EQ(config->num_heads, 9);
  EXPECT_EQ(config->num_kv_heads, 3);
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_EQ(config->vocab_size, 49152);
  EXPECT_EQ(config->context_length, 8192);
  EXPECT_EQ(config->rms_norm_eps, 1e-5f);
  EXPECT_EQ(config->rope_theta, 100000.0f);
  EXPECT_TRUE(config->tied_embeddings);
}

TEST_F(GgufPackagedTest, Tokenizer) {
  const auto spec = ReadGgufTokenizer(*file_);
  ASSERT_TRUE(IsOk(spec));
  EXPECT_EQ(spec->model, "gpt2");
  EXPECT_EQ(spec->pre_tokenizer, "smollm");
  ASSERT_EQ(spec->tokens.size(), 49152u);
  EXPECT_EQ(spec->tokens[4], "<reponame>");
  EXPECT_EQ(spec->tokens[49151], "ectable");
  ASSERT_EQ(spec->merges.size(), 48900u);
  EXPECT_EQ(spec->merges.front(), "\xc4\xa0 t");
  EXPECT_EQ(spec->merges.back(), "ect able");
  for (size_t i = 0; i < spec->types.size(); ++i) {
    ASSERT_EQ(spec->types[i] == TokenizerSpec::TokenType::kControl, i <= 16) << i;
  }
  EXPECT_EQ(spec->bos_id, 1);
  EXPECT_FALSE(spec->add_bos);
  EXPECT_EQ(spec->end_ids, (std::vector<int32_t>{0, 2, 4}));
}

TEST_F(GgufPackagedTest, EveryTensorHasItsTypeAndShape) {
  EXPECT_EQ(file_->num_tensors(), 272);
  std::map<DataType, int64_t> count;
  std::map<DataType, int64_t> bytes;
  for (const std::string_view name : file_->TensorNames()) {
    const Tensor tensor = *file_->GetTensor(name);
    ++count[tensor.type()];
    bytes[tensor.type()] += tensor.bytes();
  }
  EXPECT_EQ(count, (std::map<DataType, int64_t>{
                       {DataType::kF32, 61}, {DataType::kQ4_1, 210}, {DataType::kQ8_0, 1}}));
  EXPECT_EQ(bytes, (std::map<DataType, int64_t>{{DataType::kF32, 140544},
                                                {DataType::kQ4_1, 66355200},
                                                {DataType::kQ8_0, 30081024}}));

  const auto source = MakeGgufWeightSource(file_);
  EXPECT_TRUE(IsOk(source->Get("embed_tokens.weight", {49152, 576})));
  EXPECT_TRUE(IsOk(source->Get("norm.weight", {576})));
  EXPECT_FALSE(source->Contains("lm_head.weight"));
  for (int i = 0; i < 30; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    EXPECT_TRUE(IsOk(source->Get(layer + "input_layernorm.weight", {576})));
    EXPECT_TRUE(IsOk(source->Get(layer + "self_attn.q_proj.weight", {576, 576})));
    EXPECT_TRUE(IsOk(source->Get(layer + "self_attn.k_proj.weight", {192, 576})));
    EXPECT_TRUE(IsOk(source->Get(layer + "self_attn.v_proj.weight", {192, 576})));
    EXPECT_TRUE(IsOk(source->Get(layer + "self_attn.o_proj.weight", {576, 576})));
    EXPECT_TRUE(IsOk(source->Get(layer + "post_attention_layernorm.weight", {576})));
    EXPECT_TRUE(IsOk(source->Get(layer + "mlp.gate_proj.weight", {1536, 576})));
    EXPECT_TRUE(IsOk(source->Get(layer + "mlp.up_proj.weight", {1536, 576})));
    EXPECT_TRUE(IsOk(source->Get(layer + "mlp.down_proj.weight", {576, 1536})));
  }
}

// Forgotten pages come back from the file: the values are the same afterwards.
TEST_F(GgufPackagedTest, DequantizedValues) {
  for (int round = 0; round < 2; ++round) {
    const std::vector<float> table = Values("token_embd.weight");
    EXPECT_EQ(table[0], -0x1.b468p-4f);
    EXPECT_EQ(table[31], -0x1.9a6ep-3f);
    EXPECT_EQ(table[577], -0x1.04p-6f);
    EXPECT_EQ(table[14155781], -0x1.ed1cp-3f);
    EXPECT_EQ(table[28311551], -0x1.55ap-5f);

    const std::vector<float> query = Values("blk.0.attn_q.weight");
    EXPECT_EQ(query[0], -0x1.8a8p-4f);
    EXPECT_EQ(query[1], 0x1.424p-3f);
    EXPECT_EQ(query[32], -0x1.628p-2f);
    EXPECT_EQ(query[331775], -0x1.06p-2f);
    EXPECT_EQ(Sum(query), 0x1.d9c928p+5);

    const std::vector<float> down = Values("blk.17.ffn_down.weight");
    EXPECT_EQ(down[0], -0x1.3d2p-5f);
    EXPECT_EQ(down[577], 0x1.24fp-3f);
    EXPECT_EQ(down[884735], -0x1.4a4p-4f);
    EXPECT_EQ(Sum(down), 0x1.c872080000000p+6);

    const std::vector<float> norm = Values("output_norm.weight");
    EXPECT_EQ(norm[0], 0x1.c2p+0f);
    EXPECT_EQ(norm[575], 0x1.fcp+0f);
    EXPECT_EQ(Sum(norm), 0x1.03954p+10);

    const auto source = MakeGgufWeightSource(file_);
    source->Forget(*source->Get("embed_tokens.weight", {49152, 576}));
    source->Forget(*source->Get("layers.17.mlp.down_proj.weight", {576, 1536}));
  }
}

}  // namespace
}  // namespace penstock
