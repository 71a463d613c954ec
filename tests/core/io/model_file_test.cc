// OpenModel and OpenTokenizer: what a path may be, and what is said of what it is not.
#include "core/io/model_file.h"

#include <gtest/gtest.h>

#include "core/model/llama/llama_weight.h"
#include "tests/support/safetensors_builder.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"

namespace penstock::testing {
namespace {

using absl::StatusCode;

constexpr std::string_view kConfig = R"({"model_type": "llama", "hidden_size": 4, "vocab_size": 8,
    "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5})";

TEST(ModelFileTest, AGgufFile) {
  const TempFile file(TinyModel().Build());  // the suffix is of no account
  const auto model = OpenModel(file.path());
  ASSERT_TRUE(IsOk(model));
  EXPECT_EQ(model->config.num_layers, 2);
  EXPECT_TRUE(model->weights->Contains("norm.weight"));
  EXPECT_EQ(model->weights->Tensors().size(), 2u + 2u * 9u);
  const auto tokenizer = OpenTokenizer(file.path());
  ASSERT_TRUE(IsOk(tokenizer));
  EXPECT_EQ(tokenizer->spec.tokens.size(), static_cast<size_t>(kTinyVocab));
  EXPECT_EQ(tokenizer->config.vocab_size, kTinyVocab);
}

TEST(ModelFileTest, AStageNeedsNoTokenizer) {
  const TempFile file(TinyModel()
                          .Remove("tokenizer.ggml.model")
                          .Int("llama.vocab_size", static_cast<uint32_t>(kTinyVocab))
                          .Build());
  EXPECT_TRUE(IsOk(OpenModel(file.path())));
  EXPECT_TRUE(Fails(OpenTokenizer(file.path()), StatusCode::kNotFound, {"tokenizer.ggml.model"}));
}

TEST(ModelFileTest, AFolder) {
  const TempFolder folder;
  folder.Write("config.json", kConfig);
  EXPECT_TRUE(Fails(OpenModel(folder.path()), StatusCode::kNotFound, {"model.safetensors"}));
  folder.Write("model.safetensors", SafetensorsBuilder().F32("model.norm.weight", {4}, 1).Build());
  const auto model = OpenModel(folder.path());
  ASSERT_TRUE(IsOk(model));
  EXPECT_EQ(model->config.hidden_size, 4);
  EXPECT_TRUE(model->weights->Contains("norm.weight"));
}

TEST(ModelFileTest, WhatIsNoModelSaysWhatToGive) {
  const TempFolder folder;
  EXPECT_TRUE(Fails(OpenModel(folder.path()), StatusCode::kNotFound,
                    {folder.path(), "without a config.json", "give a .gguf file"}));
  folder.Write("m.gguf", "x");
  EXPECT_TRUE(Fails(OpenTokenizer(folder.path()), StatusCode::kNotFound,
                    {"'m.gguf'", "give the path of that file"}));
  for (const char* name : {"pytorch_model.bin", "x.pt", "x.pth", "x.ckpt"}) {
    EXPECT_TRUE(Fails(OpenModel(folder.Write(name, "PK")), StatusCode::kInvalidArgument,
                      {name, "PyTorch checkpoint", "safetensors"}));
  }
  for (const char* name : {"model.safetensors", "config.json", "tokenizer.model"}) {
    const std::string path = folder.Write(name, "{}");
    EXPECT_TRUE(Fails(OpenModel(path), StatusCode::kInvalidArgument, {name, "give the folder"}));
    std::filesystem::remove(path);
  }
  EXPECT_TRUE(Fails(OpenModel(folder.Write("notes.txt", "Dear diary")),
                    StatusCode::kInvalidArgument, {"not a GGUF model file", "'Dear diary'"}));
  EXPECT_TRUE(Fails(OpenModel(folder.Path("none.gguf")), StatusCode::kNotFound, {"none.gguf"}));
  EXPECT_TRUE(Fails(OpenModel(""), StatusCode::kNotFound, {"check the path"}));
  folder.Write("config.json", kConfig);
  folder.Write("pytorch_model.bin", "PK");
  EXPECT_TRUE(Fails(OpenModel(folder.path()), StatusCode::kNotFound,
                    {"holds no safetensors but a PyTorch checkpoint", "convert"}));
}

TEST(ModelFileTest, DummiesHaveTheShapesOfTheRealOnes) {
  const struct {
    const char* path;
    int64_t parameters;
  } models[] = {{"dummy:llama-2-7b", 6738415616},
                {"dummy:llama-3-8b", 8030261248},
                {"dummy:llama-2-70b", 68976648192}};
  for (const auto& [path, parameters] : models) {
    const auto model = OpenModel(path);
    ASSERT_TRUE(IsOk(model)) << path;
    int64_t sum = 0;
    for (const TensorInfo& info : model->weights->Tensors()) {
      sum += info.shape.num_elements();
      EXPECT_EQ(info.type, info.shape.rank() == 2 ? DataType::kBF16 : DataType::kF32);
    }
    EXPECT_EQ(sum, parameters) << path;
  }
  EXPECT_TRUE(Fails(OpenModel("dummy:gpt-5"), StatusCode::kNotFound, {"'gpt-5'", "dummy:tiny"}));
  EXPECT_TRUE(Fails(OpenTokenizer("dummy:"), StatusCode::kNotFound, {"''", "dummy:llama-2-7b"}));
}

TEST(ModelFileTest, ADummyLoadsWholeOrInSlices) {
  const auto model = OpenModel("dummy:tiny");
  ASSERT_TRUE(IsOk(model));
  HostAllocator allocator;
  const WeightLoader loader{*model->weights, model->config, allocator};
  LlamaWeight whole({0, 4});
  LlamaWeight slice({2, 4});
  ASSERT_TRUE(IsOk(whole.Load(loader, "")));
  ASSERT_TRUE(IsOk(slice.Load(loader, "")));
  EXPECT_EQ(Bytes(whole.layers[3].ffn.down), Bytes(slice.layers[1].ffn.down));
  EXPECT_EQ(Bytes(whole.lm_head), Bytes(slice.lm_head));
}

TEST(ModelFileTest, ADummysTokenizerHasATextForEveryId) {
  const auto file = OpenTokenizer("dummy:tiny");
  ASSERT_TRUE(IsOk(file));
  const auto tokenizer = MakeTokenizer(file->spec);
  ASSERT_TRUE(IsOk(tokenizer));
  EXPECT_EQ((*tokenizer)->vocab_size(), file->config.vocab_size);
  const std::string text = "Any text, \xc3\xa9 too.";
  const auto ids = (*tokenizer)->Encode(text, /*parse_special=*/true);
  ASSERT_TRUE(IsOk(ids));
  EXPECT_EQ(ids->size(), text.size());
  EXPECT_EQ(Detokenize(**tokenizer, *ids), text);
  for (int32_t id = 0; id < (*tokenizer)->vocab_size(); ++id) {
    EXPECT_FALSE((*tokenizer)->TokenBytes(id).empty()) << id;
    EXPECT_FALSE((*tokenizer)->IsEnd(id)) << id;
  }
}

}  // namespace
}  // namespace penstock::testing
