// The weights of a Hugging Face folder, whole and sharded, and what is wrong with some.
#include "core/io/safetensors_weights.h"

#include <gtest/gtest.h>

#include <string>

#include "core/base/quoted.h"
#include "tests/support/safetensors_builder.h"
#include "tests/support/status_matchers.h"

namespace penstock::testing {
namespace {

using absl::StatusCode;

ModelConfig OneLayer() {
  ModelConfig config;
  config.architecture = "llama";
  config.hidden_size = 4;
  config.num_layers = 1;
  return config;
}

TEST(SafetensorsWeightsTest, NamesLoseTheirPrefix) {
  const TempFolder folder;
  folder.Write("model.safetensors", SafetensorsBuilder()
                                        .F32("model.norm.weight", {4}, 1)
                                        .F32("model.layers.0.self_attn.q_proj.weight", {4, 4}, 2)
                                        .F32("lm_head.weight", {8, 4}, 3)
                                        .Build());
  const auto source = OpenSafetensors(folder.path(), OneLayer());
  ASSERT_TRUE(IsOk(source));
  EXPECT_EQ((*source)->rope_rows(), WeightSource::RopeRows::kHalves);
  EXPECT_TRUE((*source)->Contains("norm.weight"));
  EXPECT_FALSE((*source)->Contains("model.norm.weight"));
  const auto query = (*source)->Get("layers.0.self_attn.q_proj.weight", Shape({4, 4}));
  ASSERT_TRUE(IsOk(query));
  EXPECT_EQ(static_cast<const float*>(query->raw())[1], 3.0f);
  EXPECT_TRUE(IsOk((*source)->Get("lm_head.weight", Shape({8, 4}))));
  const std::vector<TensorInfo> infos = (*source)->Tensors();
  ASSERT_EQ(infos.size(), 3u);
  EXPECT_EQ(infos[0].name, "layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(infos[1].name, "lm_head.weight");
  EXPECT_EQ(infos[1].shape, Shape({8, 4}));
  EXPECT_EQ(infos[2].type, DataType::kF32);
  (*source)->Forget(*query);
  EXPECT_EQ(static_cast<const float*>(query->raw())[1], 3.0f);
  EXPECT_TRUE(Fails((*source)->Get("norm.weight", Shape({5})), StatusCode::kInvalidArgument,
                    {folder.Path("model.safetensors"), "'model.norm.weight'", "[4]", "[5]"}));
  EXPECT_TRUE(Fails((*source)->Get("embed_tokens.weight", Shape({8, 4})), StatusCode::kNotFound,
                    {folder.path(), "'model.embed_tokens.weight'", "[8, 4]"}));
}

TEST(SafetensorsWeightsTest, HarmlessTensorsAreIgnored) {
  const TempFolder folder;
  folder.Write("model.safetensors", SafetensorsBuilder()
                                        .F32("model.norm.weight", {4}, 1)
                                        .F32("model.layers.0.self_attn.rotary_emb.inv_freq", {2}, 1)
                                        .F32("lm_head.weight", {8, 4}, 3)
                                        .Build());
  ModelConfig config = OneLayer();
  config.tied_embeddings = true;
  const auto source = OpenSafetensors(folder.path(), config);
  ASSERT_TRUE(IsOk(source));
  EXPECT_FALSE((*source)->Contains("lm_head.weight"));
}

TEST(SafetensorsWeightsTest, TensorsWithoutAUseAreRefused) {
  for (const char* name :
       {"model.layers.1.input_layernorm.weight", "model.layers.00.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.self_attn.o_proj.bias", "model.layers.0.mlp.experts.0.w1.weight",
        "norm.weight", "model.lm_head", "transformer.wte.weight", ""}) {
    const TempFolder folder;
    folder.Write("model.safetensors", SafetensorsBuilder().F32(name, {4}, 1).Build());
    EXPECT_TRUE(Fails(OpenSafetensors(folder.path(), OneLayer()), StatusCode::kUnimplemented,
                      {"model.safetensors", Quoted(name), "llama", "1 layers"}))
        << name;
  }
}

TEST(SafetensorsWeightsTest, WeightsOfAnotherElementTypeAreRefused) {
  const TempFolder folder;
  folder.Write("model.safetensors",
               SafetensorsBuilder().Tensor("model.norm.weight", "F8_E4M3", {2}, {1, 2}).Build());
  EXPECT_TRUE(Fails(OpenSafetensors(folder.path(), OneLayer()), StatusCode::kUnimplemented,
                    {"'model.norm.weight'", "F8_E4M3", "F32, F16 and BF16"}));
}

TEST(SafetensorsWeightsTest, BiasesAndHeadNormsWhereTheFamilyHasThem) {
  const TempFolder folder;
  folder.Write("model.safetensors", SafetensorsBuilder()
                                        .F32("model.layers.0.self_attn.q_proj.bias", {4}, 1)
                                        .F32("model.layers.0.self_attn.q_norm.weight", {2}, 1)
                                        .Build());
  ModelConfig config = OneLayer();
  config.qkv_bias = true;
  config.qk_norm = true;
  EXPECT_TRUE(IsOk(OpenSafetensors(folder.path(), config)));
}

class ShardedTest : public ::testing::Test {
 protected:
  ShardedTest() {
    folder_.Write("one.safetensors", SafetensorsBuilder().F32("model.norm.weight", {4}, 1).Build());
    folder_.Write("two.safetensors", SafetensorsBuilder().F32("lm_head.weight", {8, 4}, 5).Build());
  }
  void Index(std::string_view text) { folder_.Write("model.safetensors.index.json", text); }
  auto Open() { return OpenSafetensors(folder_.path(), OneLayer()); }
  ::testing::AssertionResult Invalid(std::string_view index,
                                     std::initializer_list<std::string_view> words) {
    Index(index);
    return Fails(Open(), StatusCode::kInvalidArgument, words);
  }

  TempFolder folder_;
};

TEST_F(ShardedTest, TensorsComeFromTheirShards) {
  Index(R"({"metadata": {"total_size": 144}, "weight_map":
           {"model.norm.weight": "one.safetensors", "lm_head.weight": "two.safetensors"}})");
  const auto source = Open();
  ASSERT_TRUE(IsOk(source));
  const auto norm = (*source)->Get("norm.weight", Shape({4}));
  const auto head = (*source)->Get("lm_head.weight", Shape({8, 4}));
  ASSERT_TRUE(IsOk(norm));
  ASSERT_TRUE(IsOk(head));
  EXPECT_EQ(static_cast<const float*>(norm->raw())[0], 1.0f);
  EXPECT_EQ(static_cast<const float*>(head->raw())[0], 5.0f);
  (*source)->Forget(*head);
}

TEST_F(ShardedTest, AMissingShardIsNamed) {
  Index(R"({"weight_map": {"model.norm.weight": "one.safetensors", "lm_head.weight":
           "three.safetensors"}})");
  EXPECT_TRUE(Fails(Open(), StatusCode::kNotFound,
                    {folder_.Path("three.safetensors"), "index.json names this shard"}));
}

TEST_F(ShardedTest, AnIndexAndShardsThatDisagree) {
  EXPECT_TRUE(Invalid(R"({"weight_map": {"model.norm.weight": "two.safetensors",
                          "lm_head.weight": "two.safetensors"}})",
                      {"index.json: tensor 'model.norm.weight'", "'two.safetensors'", "not hold"}));
  folder_.Write("two.safetensors", SafetensorsBuilder()
                                       .F32("lm_head.weight", {8, 4}, 5)
                                       .F32("model.embed_tokens.weight", {8, 4}, 5)
                                       .Build());
  EXPECT_TRUE(Invalid(R"({"weight_map": {"model.norm.weight": "one.safetensors",
                          "lm_head.weight": "two.safetensors"}})",
                      {folder_.Path("two.safetensors"), "'model.embed_tokens.weight'"}));
}

TEST_F(ShardedTest, ShardsOutsideTheFolderAreRefused) {
  for (const char* shard :
       {"../one.safetensors", "/etc/one.safetensors", "sub/one.safetensors", "one", "",
        "..\\\\one.safetensors", "one.safetensors\\u0000.safetensors", "one.bin"}) {
    EXPECT_TRUE(Invalid(
        absl::StrCat(R"({"weight_map": {"model.norm.weight": ")", shard, "\"}}"),
        {"index.json: weight_map.model.norm.weight", ".safetensors file in the same folder"}))
        << shard;
  }
}

// Found by safetensors_index_fuzz: a terminal would have obeyed the message about the missing
// shard.
TEST_F(ShardedTest, ShardsWithUnprintableNamesAreRefused) {
  for (const char* shard : {"\\u001b[31mred.safetensors", "\xf0\x9f\x98\x80.safetensors",
                            "a\\nb.safetensors", "a b.safetensors"}) {
    EXPECT_TRUE(Invalid(absl::StrCat(R"({"weight_map": {"model.norm.weight": ")", shard, "\"}}"),
                        {"index.json: weight_map.model.norm.weight", "in the same folder"}))
        << shard;
  }
}

TEST_F(ShardedTest, IndexesThatAreNoIndex) {
  EXPECT_TRUE(Invalid("{", {"index.json: is not JSON"}));
  EXPECT_TRUE(Invalid("{}", {"there is no 'weight_map'"}));
  EXPECT_TRUE(Invalid(R"({"weight_map": {}})", {"weight_map is an object; the shard of each"}));
  EXPECT_TRUE(Invalid(R"({"weight_map": []})", {"weight_map is an array of 0"}));
  EXPECT_TRUE(Invalid(R"({"weight_map": {"a": 1}})", {"weight_map.a is 1; a string"}));
  EXPECT_TRUE(Invalid(R"({"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}})",
                      {"'a' is there twice"}));
}

TEST(SafetensorsWeightsTest, AFolderWithoutWeightsSaysWhatIsThere) {
  const TempFolder folder;
  EXPECT_TRUE(Fails(OpenSafetensors(folder.path(), OneLayer()), StatusCode::kNotFound,
                    {folder.path(), "model.safetensors", "model.safetensors.index.json"}));
  folder.Write("pytorch_model.bin", "PK");
  EXPECT_TRUE(Fails(OpenSafetensors(folder.path(), OneLayer()), StatusCode::kNotFound,
                    {"'pytorch_model.bin'", "convert it to safetensors"}));
}

}  // namespace
}  // namespace penstock::testing
